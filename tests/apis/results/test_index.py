"""The index beside the results: nothing that has not changed is opened again, and nothing else is believed."""

import os
import random
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.many import store_many

from vpeft.apis.results import files, index
from vpeft.apis.results.files import INDEX, read_results


@pytest.fixture(autouse=True)
def _settled(monkeypatch):
    """Files of this very moment are kept too: nothing here writes twice within a tick."""
    monkeypatch.setattr(index, "RACY", 0.0)
    monkeypatch.setattr(index, "PATIENCE", 0.1)


@pytest.fixture
def opened(monkeypatch):
    """The files that are opened."""
    found, read = [], files.read_result
    monkeypatch.setattr(files, "read_result", lambda path: found.append(path) or read(path))
    return found


def truth(root, opened):
    """What the files say, without the index."""
    return {path: files.read_result(path) for path in sorted((root / "runs").rglob("*.json"))}


def test_thousands_are_opened_once(tmp_path, opened):
    counts = []
    for rows in (10, 30):
        root = tmp_path / str(rows)
        paths = store_many(root, rows)
        assert read_results(root).runs.keys() == {*paths}
        counts.append(len(opened))
        opened.clear()
        again = read_results(root)
        assert not opened
        assert again.runs == truth(root, opened)
        opened.clear()
    assert counts == [10 * 57, 30 * 57]


def test_what_changed_is_opened_alone(tmp_path, opened):
    paths = store_many(tmp_path, 4, tasks=3)
    read_results(tmp_path)
    changed, new, gone = paths[5], tmp_path / "runs" / "new.json", paths[0]
    before = changed.stat()
    text = changed.read_text()
    # Another result of as many bytes, with the old time of change: only the inode's own time tells.
    changed.write_text(text.replace('"seed": 2', '"seed": 7'))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.write_text(paths[7].read_text())
    gone.unlink()
    opened.clear()
    found = read_results(tmp_path)
    assert sorted(opened) == sorted([changed, new])
    assert len(found.broken) == 1
    assert "checksum differs" in found.broken[0]
    assert found.runs.keys() == {*paths, new} - {changed, gone}
    opened.clear()
    read_results(tmp_path)
    assert opened == [changed]  # broken ones are looked at each time
    with sqlite3.connect(tmp_path / INDEX) as base:
        assert base.execute("SELECT count(*) FROM entries").fetchone() == (len(paths),)  # one came, one went


def test_a_file_of_this_moment_is_not_kept_yet(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(index, "RACY", 0.5)
    paths = store_many(tmp_path, 1, tasks=2)
    read_results(tmp_path)
    read_results(tmp_path)
    assert len(opened) == 2 * len(paths)
    time.sleep(0.6)
    read_results(tmp_path)
    opened.clear()
    read_results(tmp_path)
    assert not opened


def lost(file):
    file.unlink()


def garbled(file):
    file.write_bytes(b"no database, but as long as one" * 1000)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file):
    file.write_bytes(b"")


def of_another_table(file):
    with sqlite3.connect(file) as base:
        base.execute("ALTER TABLE entries ADD COLUMN more")


@pytest.mark.parametrize("harm", [lost, garbled, cut, empty, of_another_table])
def test_a_harmed_index_is_made_anew(tmp_path, opened, harm):
    paths = store_many(tmp_path, 4, tasks=4)
    read_results(tmp_path)
    harm(tmp_path / INDEX)
    assert read_results(tmp_path).runs == truth(tmp_path, opened)
    read_results(tmp_path)
    opened.clear()
    assert len(read_results(tmp_path).runs) == len(paths)
    assert not opened


def test_another_version_is_forgotten(tmp_path, opened, monkeypatch):
    paths = store_many(tmp_path, 1, tasks=4)
    read_results(tmp_path)
    opened.clear()
    monkeypatch.setattr(files, "READING", files.READING + 1)
    read_results(tmp_path)
    assert opened == sorted(paths)
    opened.clear()
    read_results(tmp_path)
    assert not opened


def test_no_byte_of_it_can_lie(tmp_path, opened):
    """Whatever byte is another one, what is read is what the files say."""
    store_many(tmp_path, 1, tasks=4)
    read_results(tmp_path)
    right, said = (tmp_path / INDEX).read_bytes(), truth(tmp_path, opened)
    drawn = random.Random(0)
    for place in [*range(0, 100, 7), *(drawn.randrange(len(right)) for _ in range(60))]:
        wrong = bytearray(right)
        wrong[place] ^= 1 << drawn.randrange(8)
        (tmp_path / INDEX).write_bytes(wrong)
        found = read_results(tmp_path)
        assert (found.runs, found.broken) == (said, []), place


def test_a_locked_one_is_done_without(tmp_path, opened):
    paths = store_many(tmp_path, 1, tasks=4)
    read_results(tmp_path)
    opened.clear()
    other = sqlite3.connect(tmp_path / INDEX, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert read_results(tmp_path).runs.keys() == {*paths}
    assert opened == sorted(paths)
    other.execute("ROLLBACK")
    other.close()
    opened.clear()
    read_results(tmp_path)
    assert not opened  # it was left as it was


def test_where_none_can_be_made(tmp_path, opened):
    paths = store_many(tmp_path, 1, tasks=4)
    (tmp_path / INDEX).mkdir()
    assert read_results(tmp_path).runs.keys() == {*paths}
    assert read_results(tmp_path).runs.keys() == {*paths}
    assert len(opened) == 2 * len(paths)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only(tmp_path, opened):
    paths = store_many(tmp_path, 1, tasks=4)
    tmp_path.chmod(0o555)
    try:
        assert read_results(tmp_path).runs.keys() == {*paths}
    finally:
        tmp_path.chmod(0o755)


def test_several_read_at_once(tmp_path, opened):
    paths = store_many(tmp_path, 2, tasks=10)
    said = truth(tmp_path, opened)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: read_results(tmp_path), range(12)):
            assert (found.runs, found.broken) == (said, [])
    opened.clear()
    assert len(read_results(tmp_path).runs) == len(paths)
    assert not opened
