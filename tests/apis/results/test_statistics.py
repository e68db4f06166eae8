"""Means, spreads, comparisons, fronts."""

import pytest
from support.results import result, store

from vpeft.apis.leaderboard.boards import boards
from vpeft.apis.leaderboard.page import notes
from vpeft.apis.results.files import cells, read_results, row_name, shared_settings
from vpeft.apis.results.plots import draw_all, front, size_curves
from vpeft.apis.results.statistics import all_tasks, compare, lines, mean_and_std, pareto
from vpeft.apis.results.tables import describe
from vpeft.core.families.metrics import ppt


@pytest.fixture
def results(tmp_path):
    """Two natural tasks and a structured one, two seeds; B lacks a seed of one task."""
    values = {"digits": (0.5, 0.6), "photos": (0.3, 0.3), "sprite_count": (0.8, 1.0)}
    for task, (first, second) in values.items():
        store(tmp_path, result("A", task, 0, first, 90_000_000), result("A", task, 1, second, 90_000_000))
        store(tmp_path, result("B", task, 0, first - 0.1, 100))
        if task != "photos":
            store(tmp_path, result("B", task, 1, second - 0.2, 100))
    return read_results(tmp_path)


def test_both_averages_and_their_spread(results):
    a, b = lines(results)
    assert (a.row[0], b.row[0]) == ("A", "B")
    assert all_tasks(results) == ["digits", "photos", "sprite_count"]
    assert a.mean == pytest.approx((0.55 + 0.3 + 0.9) / 3)
    assert a.group_means == pytest.approx({"natural": 0.425, "structured": 0.9})
    assert a.mean_of_groups == pytest.approx((0.425 + 0.9) / 2)
    # Seeds' means over tasks: 1.6 / 3 and 1.9 / 3.
    assert a.std == pytest.approx(0.1 / 2**0.5)
    assert b.std is None  # only one seed has all tasks
    assert a.parameters == 90_000_000
    assert a.ppt == pytest.approx(ppt(a.mean, 90_000_000))
    assert a.cost["saved_bytes"] == 50


def test_the_deviation_divides_by_one_less():
    assert mean_and_std([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, (7 / 3) ** 0.5))
    assert mean_and_std([3.0]) == (3.0, None)


def test_a_row_without_every_task_is_no_line(results):
    assert [line.row[0] for line in lines(results.where(lambda r: (r["method"], r["task"]) != ("B", "photos")))] == [
        "A"
    ]


def test_comparison_pairs_tasks_and_seeds(results):
    table = cells(results)
    found = compare(table, ("A", "nano_vit", ""), ("B", "nano_vit", ""))
    assert found.pairs == 5
    assert found.difference == pytest.approx((0.15 + 0.1 + 0.15) / 3)
    assert found.of_seeds == pytest.approx([0.1])  # the one that all three tasks have
    low, high = found.tasks_interval
    error = 0.0288675135 / 3**0.5  # of 0.15, 0.1 and 0.15 by hand
    assert (low, high) == pytest.approx((0.4 / 3 - 4.302653 * error, 0.4 / 3 + 4.302653 * error), rel=1e-5)


def test_student_interval_of_seeds(tmp_path):
    for seed, difference in enumerate((0.01, 0.02, 0.06)):
        store(tmp_path, result("A", "digits", seed, 0.5 + difference), result("B", "digits", seed, 0.5))
    found = compare(cells(read_results(tmp_path)), ("A", "nano_vit", ""), ("B", "nano_vit", ""))
    error = 0.0264575131 / 3**0.5  # standard deviation of the three by hand
    assert found.seeds_interval == pytest.approx((0.03 - 4.302653 * error, 0.03 + 4.302653 * error), rel=1e-6)
    assert found.p_value == pytest.approx(0.1885, abs=1e-3)


def test_other_test_images_are_a_part_of_the_interval(tmp_path):
    """Two rows that answer four regions of one task; both tasks' errors are those of a bootstrap over what is drawn."""
    answers = {"A": ([4, 4, 3, 1], "f8"), "B": ([4, 2, 1, 1], "e0")}
    for method, (right, bits) in answers.items():
        regions = {f"brick 0 {k}": [right[k], 4] for k in range(4)}
        images = {"photos": {"images": 16, "regions": regions}, "digits": {"images": 8, "right": bits}}
        store(tmp_path, *(result(method, task, 0, 0.5, test_answers=tested) for task, tested in images.items()))
    results = read_results(tmp_path)
    a, b = ("A", "nano_vit", ""), ("B", "nano_vit", "")
    found = compare(cells(results), a, b, results)
    # A quarter more is right in both: of 8 images 1.5 / 8^2 x 8 / 7, of 4 regions 4 x 1^2 / 16^2 x 4 / 3.
    assert found.images.error == pytest.approx((1.5 / 56 + 16 / 3 / 256) ** 0.5 / 2)
    (board,) = boards(results)
    assert board.entries[1].behind.images == pytest.approx(found.images_interval)
    assert "other test images, these seeds and tasks: " in describe(found)
    assert any("of these a region of a photograph with all its patches: photos 4" in note for note in notes(board))
    assert compare(cells(results), a, b).images is None


def test_nothing_in_common_is_no_comparison(tmp_path):
    store(tmp_path, result("A", "digits", 0, 0.5), result("B", "digits", 1, 0.5))
    assert compare(cells(read_results(tmp_path)), ("A", "nano_vit", ""), ("B", "nano_vit", "")) is None


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.5, 10), (0.6, 20), (0.55, 30), (0.7, 40)], [0, 1, 3]),
        ([(0.5, 10), (0.6, 10)], [1]),
        ([(0.5, 10), (0.5, 10)], [0, 1]),
        ([(0.5, 10), (0.5, 20)], [0]),
        ([], []),
    ],
)
def test_pareto(points, expected):
    assert pareto(points) == expected


def test_front_and_figures(results, tmp_path):
    assert [line.row[0] for line in front(lines(results), "parameters")] == ["B", "A"]
    paths = draw_all(results, tmp_path / "figures")
    assert [p.name for p in paths] == [f"pareto_{c}.png" for c in ("parameters", "step_seconds", "saved_bytes")]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)


def test_curves_over_shots_and_size(tmp_path):
    for shots, rank, value in ((1, 2, 0.2), (5, 2, 0.4), (1, 8, 0.3), (5, 8, 0.5)):
        variant = {"shots": shots, "model.backbone.method.rank": rank, "train_cfg.max_epochs": 100, "drop": None}
        store(tmp_path, result("LoRA", "digits", 0, value, 100 * rank, variant=variant))
    curves = size_curves(read_results(tmp_path))
    assert curves["shots"] == {
        "LoRA (rank=2)": [(1, 0.2, 0.0), (5, 0.4, 0.0)],
        "LoRA (rank=8)": [(1, 0.3, 0.0), (5, 0.5, 0.0)],
    }
    assert curves["parameters"] == {
        "LoRA (shots=1)": [(200, 0.2, 0.0), (800, 0.3, 0.0)],
        "LoRA (shots=5)": [(200, 0.4, 0.0), (800, 0.5, 0.0)],
    }
    assert {p.name for p in draw_all(read_results(tmp_path), tmp_path)} >= {"over_shots.png", "over_parameters.png"}


def test_rows_name_only_what_not_all_change():
    rows = [("LoRA", "vit", f"end=100, names=[1, 2], rank={rank}, shots=5") for rank in (2, 8)]
    linear = ("Linear", "vit", "end=100, names=[1, 2], shots=5")
    assert [row_name(row, [*rows, linear]) for row in (*rows, linear)] == ["LoRA (rank=2)", "LoRA (rank=8)", "Linear"]
    assert shared_settings([*rows, linear]) == ["end=100", "names=[1, 2]", "shots=5"]
    assert row_name(linear, [linear]) == "Linear (end=100, names=[1, 2], shots=5)"
    assert row_name(linear, ()) == "Linear (end=100, names=[1, 2], shots=5)"


def test_tasks_stand_in_their_suites_order(tmp_path):
    for task in ("sprite_count", "sprite_location", "digits"):
        store(tmp_path, result("A", task, 0, 0.5, 100))
    none = {"task": "nano_swin_detection", "suite": None, "group": None, "config": "a_nano_swin_detection.py"}
    store(tmp_path, {**result("A", "digits", 0, 0.5, 100, config_text="other"), **none})
    assert all_tasks(read_results(tmp_path)) == ["digits", "sprite_location", "sprite_count", "nano_swin_detection"]
