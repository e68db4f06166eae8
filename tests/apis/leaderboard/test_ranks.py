"""The order of our methods against published ones, worked by hand on made-up results."""

import csv
import math

import numpy as np
import pytest
from scipy import stats
from support.results import result, store

from vpeft.apis.commands.words.study.leaderboard import main
from vpeft.apis.leaderboard.against import against
from vpeft.apis.leaderboard.boards import boards
from vpeft.apis.leaderboard.page import page_data
from vpeft.apis.leaderboard.ranks import correlation, kendall_of, orders, spearman_of
from vpeft.apis.leaderboard.write import write_leaderboard
from vpeft.apis.results.files import read_results
from vpeft.apis.results.published.columns import find_table

SURVEY = "vtab1k_vit_b16_in21k"
#: The survey's order by its mean of 19 tasks is HST, SSF, AdaptFormer, LoRA, VPTDeep, Full, VPTShallow, BitFit, Linear.
OURS = ("HST", "AdaptFormer", "LoRA", "VPTDeep", "Full", "VPTShallow", "BitFit", "SSF", "Linear")


def of(order=OURS, **changes):
    """Runs on one task, the first method the best by far."""
    return [result(method, "digits", 0, 0.9 - 0.05 * place, **changes) for place, method in enumerate(order)]


def found(root, *results, table=SURVEY):
    store(root, *results)
    return orders(boards(read_results(root)), find_table(table))


def test_ranks_and_correlations_by_hand(tmp_path):
    """SSF falls from 2 to 8, six rise by one: Spearman 1 - 6 (36 + 6) / (9 80), Kendall 1 - 2 6 / 36."""
    (order,), reasons = found(tmp_path, *of())
    assert reasons == []
    assert (order.board, order.backbone, order.column) == ("mini (embedded)", "nano_vit", f"{SURVEY} (mean_19)")
    assert [(one.row, one.published_rank, one.our_rank) for one in order.methods] == [
        ("HST", 1, 1),
        ("SSF", 2, 8),
        ("AdaptFormer", 3, 2),
        ("LoRA", 4, 3),
        ("VPT-Deep", 5, 4),
        ("Full fine-tuning", 6, 5),
        ("VPT-Shallow", 7, 6),
        ("BitFit", 8, 7),
        ("Linear probing", 9, 9),
    ]
    assert order.spearman.value == pytest.approx(0.65)
    assert order.kendall.value == pytest.approx(2 / 3)
    # Without Full and Linear SSF falls by 5 of 7, five rise by one.
    assert order.spearman_methods.value == pytest.approx(1 - 6 * 30 / (7 * 48))
    assert order.kendall_methods.value == pytest.approx(1 - 2 * 5 / 21)
    assert [one.row for one in order.suspects] == ["SSF"]
    assert order.higher == []
    for one in (order.spearman, order.kendall, order.spearman_methods, order.kendall_methods):
        assert -1 <= one.low < one.value < one.high <= 1
    assert order.sentences()[2:] == [
        "Suspects, lower here by at least 3 places: SSF (2 published, 8 here).",
        "Higher here by at least 3 places: none.",
    ]


def test_a_method_that_rose_is_no_suspect(tmp_path):
    (order,), _ = found(tmp_path, *of(("BitFit", *(name for name in OURS if name != "BitFit"))))
    assert [(one.row, one.lower) for one in order.higher] == [("BitFit", -7)]
    assert [order.out_of_line(one) for one in order.methods if one.row in ("BitFit", "SSF", "HST")] == [
        "",
        "lower here",
        "higher here",
    ]


def test_twice_the_same_order_and_its_reverse(tmp_path):
    printed = ("HST", "SSF", "AdaptFormer", "LoRA", "VPTDeep", "VPTShallow", "BitFit")
    (order,), _ = found(tmp_path / "a", *of(printed))
    assert (order.spearman.value, order.kendall.value) == (pytest.approx(1), pytest.approx(1))
    assert order.spearman_methods is None  # no baseline among them
    (order,), _ = found(tmp_path / "b", *of(printed[::-1]))
    assert (order.spearman.value, order.kendall.value) == (pytest.approx(-1), pytest.approx(-1))
    assert order.spearman.high < 0


def test_ties_share_their_places(tmp_path):
    runs = [result(method, "digits", 0, 0.5 if place < 2 else 0.4 - place / 100) for place, method in enumerate(OURS)]
    (order,), _ = found(tmp_path, *runs)
    assert {one.row: one.our_rank for one in order.methods if one.our_rank < 3} == {"HST": 1.5, "AdaptFormer": 1.5}


def test_both_correlations_are_scipys():
    a, b = np.random.default_rng(1).integers(5, size=(2, 3, 12)).astype(float)
    spearman, kendall = spearman_of(a, b), kendall_of(a, b)
    for row in range(3):
        assert spearman[row] == pytest.approx(stats.spearmanr(a[row], b[row]).statistic)
        assert kendall[row] == pytest.approx(stats.kendalltau(a[row], b[row]).statistic)
    assert spearman_of(np.ones(4), a[0, :4]) == kendall_of(np.ones(4), a[0, :4]) == 0


def test_what_is_not_put_in_order(tmp_path):
    few = of(OURS[:5])
    assert found(tmp_path / "few", *few) == (
        [],
        [("order: 5 methods in common, at least 6 are needed", "mini (embedded), nano_vit")],
    )
    # A LoRA of one bit is not the published LoRA, a method in two settings is neither of them.
    runs = [run for run in of() if run["method"] != "LoRA"]
    runs += [{**result("LoRA", "digits", 0, 0.3), "method": "bi_lora", "methods": [{"type": "LoRA", "bits": 1}]}]
    runs = [run for run in runs if run["method"] != "SSF"]
    runs += [result("SSF", "digits", 0, 0.5 + rate, variant={"lr": rate}) for rate in (0.1, 0.2)]
    (order,), reasons = found(tmp_path / "other", *runs)
    assert {one.row for one in order.methods} == {
        *("HST", "AdaptFormer", "VPT-Deep", "Full fine-tuning", "VPT-Shallow", "BitFit", "Linear probing")
    }
    assert reasons == [
        ("order: several settings of SSF are shown, none of them its config's", "mini (embedded), nano_vit")
    ]
    # Boards of another metric, tables without a mean.
    maps = [{**run, "main_metric": {"name": "mIoU", "value": 0.3}} for run in of()]
    assert found(tmp_path / "maps", *maps) == ([], [])
    assert found(tmp_path / "dense", *of(), table="dense_swin_in22k") == ([], [])


def test_everything_shows_it(tmp_path, capsys):
    store(tmp_path, *of())
    main([str(tmp_path), "--against", SURVEY])
    said = capsys.readouterr().out
    assert "Suspects, lower here by at least 3 places: SSF (2 published, 8 here)." in said
    text = (tmp_path / "leaderboard" / "leaderboard.md").read_text()
    assert "9 methods in common. Spearman 0.65 " in text
    assert "| SSF | SSF | 73.10 | 55.00 | 2 | 8 | +6 | lower here |" in text
    with open(tmp_path / "leaderboard" / "ranks.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["our_row"] for row in rows if row["out_of_line"]] == ["SSF"]
    assert [row["our_row"] for row in rows if row["baseline"] == "True"] == ["Full", "Linear"]
    results = read_results(tmp_path)
    shown = boards(results)
    (order,) = page_data(results, shown, [against(shown, find_table(SURVEY))], False, None)["against"][0]["orders"]
    assert {"row": "SSF", "our_rank": 8.0, "far": "lower here"}.items() <= order["methods"][1].items()
    write_leaderboard(results)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_intervals_hold_the_correlation_of_many_methods():
    """20 methods drawn from two normals of which both are known, 6 / pi asin(rho / 2) and 2 / pi asin(rho)."""
    rng, rho, tries = np.random.default_rng(7), 0.6, 100
    known = {spearman_of: 6 / math.pi * math.asin(rho / 2), kendall_of: 2 / math.pi * math.asin(rho)}
    held, wide = dict.fromkeys(known, 0), dict.fromkeys(known, 0.0)
    for _ in range(tries):
        a, b = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=20).T
        for measure, truth in known.items():
            one = correlation(a, b, measure)
            held[measure] += one.low <= truth <= one.high
            wide[measure] += (one.high - one.low) / tries
    assert all(count >= 92 for count in held.values()), held
    assert all(0.4 < width < 0.9 for width in wide.values()), wide
