"""Boards, page and texts take work in proportion to the runs."""

from support.many import calls, store_many

from vpeft.apis.leaderboard import write
from vpeft.apis.results.files import read_results


def work(root, monkeypatch):
    results = read_results(root)
    monkeypatch.setattr(write, "write_atomically", lambda path, data: path)
    write.write_leaderboard(results)  # imports what it needs
    return calls(write.write_leaderboard, results)


def test_work_grows_with_the_runs(tmp_path, monkeypatch):
    counts = []
    for rows in (20, 40, 80):
        store_many(tmp_path / str(rows), rows, tasks=3, seeds=2)
        counts.append(work(tmp_path / str(rows), monkeypatch))
    once, twice = counts[1] - counts[0], counts[2] - counts[1]
    assert 1.9 < twice / once < 2.1


def test_rows_that_lack_a_task_cost_no_more(tmp_path, monkeypatch):
    """Each is averaged by itself, not among all."""
    counts = []
    for rows in (20, 40, 80):
        for number, path in enumerate(store_many(tmp_path / str(rows), rows, tasks=3, seeds=1)):
            if number % 3 == 2:
                path.unlink()
        store_many(tmp_path / str(rows), 1, tasks=3, seeds=1)  # one that has all
        counts.append(work(tmp_path / str(rows), monkeypatch))
    once, twice = counts[1] - counts[0], counts[2] - counts[1]
    assert 1.9 < twice / once < 2.1
