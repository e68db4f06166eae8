"""Boards: what is ranked together, worked by hand."""

import csv
import io
import json
import runpy
import sys
from pathlib import Path

import pytest
from scipy import stats
from support.results import result, store

from vpeft import UserError
from vpeft.apis.benchmark.cost import machine_load
from vpeft.apis.leaderboard.boards import about_methods, boards, left_out
from vpeft.apis.leaderboard.page import notes, page, page_data
from vpeft.apis.leaderboard.text import board_csv
from vpeft.apis.leaderboard.write import write_leaderboard
from vpeft.apis.results.files import read_results

# digits is natural, textures specialized, sprite_count and sprite_distance structured.
LORA = {"digits": (0.90, 0.92), "textures": (0.80, 0.80), "sprite_count": (0.50, 0.54), "sprite_distance": (0.60, 0.60)}
SSF = {"digits": (0.88, 0.90), "textures": (0.70, 0.70), "sprite_count": (0.50, 0.50), "sprite_distance": (0.60, 0.58)}


def runs(method, values, parameters=1000, **changes):
    return [result(method, t, s, v, parameters, **changes) for t, both in values.items() for s, v in enumerate(both)]


def small(tmp_path, *more):
    store(tmp_path, *runs("LoRA", LORA, 2000), *runs("SSF", SSF), *more)
    return read_results(tmp_path)


def test_means_spreads_and_order(tmp_path):
    (board,) = boards(small(tmp_path, *runs("BitFit", {"digits": (0.99, 0.99)})))
    assert board.key.title() == "mini (embedded)"
    assert board.tasks == ["digits", "textures", "sprite_count", "sprite_distance"]
    assert [e.name for e in board.entries] == ["LoRA", "SSF", "BitFit"]  # what lacks tasks comes last
    lora, ssf, bitfit = board.entries
    # Means over seeds 0.91, 0.80, 0.52, 0.60; seeds' means over tasks 0.70 and 0.715.
    assert lora.line.mean == pytest.approx(0.7075)
    assert lora.line.std == pytest.approx(0.015 / 2**0.5)
    assert lora.groups == pytest.approx({"natural": 0.91, "specialized": 0.80, "structured": 0.56})
    assert lora.line.mean_of_groups == pytest.approx(2.27 / 3)
    assert lora.mean("digits") == pytest.approx((0.91, 0.02 / 2**0.5))
    assert (lora.category, lora.memory, lora.merges) == ("reparameter", "M2", "yes")
    assert lora.behind is None
    assert ssf.behind.difference == pytest.approx(-0.0375)
    # Variances of the differences over seeds: 0.0008 of sprite_count, 0.0002 of sprite_distance, else none. Two
    # seeds each: error sqrt(0.0005) / 4, degrees of freedom between 1.4706 (Satterthwaite) and 2.4118.
    reach = 0.0005**0.5 / 4 * stats.t.ppf(0.975, (1.470588 * 2.411765) ** 0.5)
    assert ssf.behind.interval == pytest.approx((-0.0375 - reach, -0.0375 + reach), abs=1e-5)
    assert ssf.behind.tells is True
    assert not ssf.behind.borrowed
    assert bitfit.line is None
    assert bitfit.groups == pytest.approx({"natural": 0.99})
    assert (bitfit.parameters, bitfit.cost["adapter_bytes"]) == (1000, 7)


def test_the_best_of_several_settings_was_selected(tmp_path):
    sweep = [
        result("LoRA", "digits", 0, value, variant={"model.backbone.method.rank": rank})
        for rank, value in ((1, 0.7), (4, 0.9), (16, 0.8))
    ]
    store(tmp_path, *sweep, result("Mona", "digits", 0, 0.6))
    (board,) = boards(read_results(tmp_path))
    assert [entry.selected for entry in board.entries] == [3, 0, 0, 0]
    (note,) = [note for note in notes(board) if "Selected" in note]
    assert note.endswith("LoRA (rank=4) of 3. The leader is one of them.")


def test_runs_of_different_code_in_a_row_are_told(tmp_path):
    codes = ["a", "a", "b"]
    store(tmp_path, *(result("LoRA", "digits", seed, 0.5, code=code) for seed, code in enumerate(codes)))
    store(tmp_path, *(result("Mona", "digits", seed, 0.4, code="a") for seed in range(3)))
    (board,) = boards(read_results(tmp_path))
    assert [entry.mixed for entry in board.entries] == [True, False]
    assert "Runs of different code stand in one row (§): LoRA." in notes(board)


def test_what_cannot_be_ranked_together_has_a_board_of_its_own(tmp_path):
    shots = runs("LoRA", {"digits": (0.5, 0.5)}, variant={"shots": 5})
    tensors = runs("SSF", {"digits": (0.6, 0.6)}, data_variant="tensors", config_text="x")
    alone = [{**result("Mona", "digits", 0, 0.4), "suite": None, "group": None, "task": "swin-l_ade20k"}]
    found = boards(small(tmp_path, *shots, *tensors, *alone))
    titles = [board.key.title() for board in found]
    assert titles[0] == "mini (embedded)"
    assert sorted(titles[1:]) == [
        "mini (embedded, 5 training images a class)",
        "mini (tensors)",
        "swin-l_ade20k (embedded)",
    ]
    (mona,) = next(board for board in found if board.key.name == "swin-l_ade20k").entries
    assert mona.line.mean == pytest.approx(0.4)
    assert (mona.line.mean_of_groups, mona.groups, mona.category) == (None, {}, "adapter")


def test_runs_off_the_protocol_are_left_out_and_listed(tmp_path):
    fault = "the test set is validated on every 1 of 100"
    off = runs("Mona", dict.fromkeys(LORA, (0.99, 0.99)), protocol={"faults": [fault], "test_looks": 101})
    failed = {**result("SSF", "digits", 7, 0.5), "status": "failed", "error": "Traceback\nValueError: no"}
    results = small(tmp_path, *off, failed)
    (board,) = boards(results)
    assert [e.row[0] for e in board.entries] == ["LoRA", "SSF"]
    reasons = [why for _, why in left_out(results, [board])]
    assert reasons.count(f"off the protocol: {fault}") == 8
    assert reasons.count("failed: ValueError: no") == 1
    (board,) = boards(results, everything=True)
    assert board.entries[0].row[0] == "Mona"
    assert [why for _, why in left_out(results, [board], everything=True)] == ["failed: ValueError: no"]
    data = page_data(results, [board], [], True, "..")
    assert sum(bool(run["faults"]) for run in data["runs"]) == 8
    with pytest.raises(UserError, match="no run to show"):
        write_leaderboard(results.filtered(method=["Mona"]), tmp_path / "out")


def test_an_older_setting_is_left_out(tmp_path):
    (old,) = store(tmp_path, result("LoRA", "digits", 0, 0.1, config_text="old", written=""))
    results = read_results(tmp_path)
    results.runs[old]["written"] = "2000-01-01T00:00:00+00:00"
    store(tmp_path, result("LoRA", "digits", 0, 0.9))
    newer = read_results(tmp_path)
    newer.runs[old] = results.runs[old]
    (board,) = boards(newer)
    assert board.entries[0].line.mean == pytest.approx(0.9)
    assert left_out(newer, [board]) == [(str(old.relative_to(tmp_path)), "of a setting that was changed since")]


def test_what_methods_are():
    assert about_methods(["LST"], False) == ("side", "M0", "no")
    assert about_methods(["PartialK", "AdaptFormer"], False) == ("adapter + specification", "M2", "partly")
    assert about_methods(["SCT"], True) == ("adapter", "M2", "yes")  # it merges with some options
    assert about_methods(["Mine"], False) == ("unknown", "unknown", "no")


def test_csv_of_a_board(tmp_path):
    (board,) = boards(small(tmp_path, *runs("BitFit", {"digits": (0.99, 0.99)})))
    lora, _, bitfit = csv.DictReader(io.StringIO(board_csv(board)))
    assert (lora["method"], lora["source"], lora["behind_best"]) == ("LoRA", "ours", "")
    assert float(lora["mean_structured"]) == pytest.approx(0.56)
    assert float(lora["sprite_count_std"]) == pytest.approx(0.04 / 2**0.5)
    assert (bitfit["mean_of_tasks"], bitfit["textures"], bitfit["digits"]) == ("", "", "0.99")


def test_no_name_becomes_markup(tmp_path):
    evil = "<script>alert(1)</script>|*"
    store(tmp_path, *runs("LoRA", LORA), *runs(evil, SSF, methods=[{"type": "LoRA"}], config="evil.py"))
    out = tmp_path / "out"
    write_leaderboard(read_results(tmp_path), out, [], title="<b>title</b> & more")
    text = (out / "index.html").read_text()
    assert "<script>alert" not in text
    assert "<b>title" not in text
    assert "&lt;b&gt;title&lt;/b&gt; &amp; more" in text
    start = text.index('type="application/json">') + len('type="application/json">')
    data = json.loads(text[start : text.index("</script>", start)])
    assert evil in {entry["method"] for entry in data["boards"][0]["entries"]}
    costs = (out / "leaderboard.md").read_text().split("Cost of ours")[1]
    assert "&lt;script>alert(1)&lt;/script>\\|*" in costs


def test_the_page_asks_for_nothing_else(tmp_path):
    results = small(tmp_path)
    text = page(page_data(results, boards(results), [], False, ".."), "t")
    for sign in ("src=", "@import", "url(", "fetch(", "XMLHttpRequest"):
        assert sign not in text, sign
    links = [part.split('"')[1] for part in text.split("href=")[1:] if part.startswith('"')]
    assert set(links) == {"data:,", "#board"}


def test_a_page_that_goes_alone_knows_no_place(tmp_path):
    write_leaderboard(small(tmp_path / "runs"), tmp_path / "docs", [], alone=True)
    text = (tmp_path / "docs" / "index.html").read_text()
    assert '"root": null' in text or '"root":null' in text
    assert str(tmp_path) not in text


def test_everything_is_written(tmp_path):
    files = write_leaderboard(small(tmp_path))
    names = [file.relative_to(tmp_path).as_posix() for file in files]
    assert names == [
        "leaderboard/index.html",
        "leaderboard/leaderboard.md",
        "leaderboard/board_mini-embedded.csv",
        "leaderboard/runs.csv",
        "leaderboard/published.csv",
        "leaderboard/ranks.csv",
    ]
    text = files[1].read_text()
    assert "| LoRA | 2,000 | 91.0 | 80.0 | 52.0 | 60.0 | **70.8** ± 1.1 (0.8) | 75.7 |" in text
    assert "2 of 2 rows have two seeds: their spread says little" in text
    with pytest.raises(UserError, match="did you mean 'video_k400'"):
        write_leaderboard(small(tmp_path), None, ["video_k40"])


def test_the_tool(tmp_path, monkeypatch, capsys):
    store(tmp_path, *runs("LoRA", LORA), *runs("SSF", SSF))
    (tmp_path / "runs" / "torn.json").write_text('{"format": 1')
    tool = str(Path(__file__).parents[3] / "tools" / "leaderboard.py")

    def call(*args):
        monkeypatch.setattr(sys, "argv", [tool, str(tmp_path), *args])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(tool, run_name="__main__")
        return end.value.code, capsys.readouterr()

    code, said = call("--out", str(tmp_path / "out"), "--against", "video_k400.csv", "--method", "LoRA")
    assert code == 0
    assert said.out.splitlines()[0] == str(tmp_path / "out" / "index.html")
    assert "torn.json is truncated" in said.err
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "SSF" not in text
    assert text.count("## Ours against published") == 1
    assert "torn.json is truncated" in text
    assert str(tmp_path) not in text
    code, said = call("--method", "LoRa")
    assert code == 2
    assert "did you mean 'LoRA'" in said.err


def test_a_row_is_busy_where_one_of_its_runs_was(tmp_path):
    cost = result("LoRA", "digits", 0, 0.9)["cost"]
    loads = {"LoRA": (0.9, 1.26), "SSF": (1.25, None), "Mona": (0.1, 0.2)}
    for name, both in loads.items():
        store(tmp_path, *(result(name, "digits", s, 0.5, cost={**cost, "load": load}) for s, load in enumerate(both)))
    results = read_results(tmp_path)
    # Where rounds were counted, these say it and not the load.
    rounds = {"VPTDeep": {"quiet_rounds": 2, "step_ratio": 1.5}, "BitFit": {"quiet_rounds": 3, "load": 9.0}}
    store(
        tmp_path,
        *(result(n, "digits", 0, 0.5, cost={**cost, "step_rounds": 3, **own}) for n, own in rounds.items()),
    )
    results = read_results(tmp_path)
    (board,) = boards(results)
    busy = {entry.name for entry in board.entries if entry.busy}
    assert busy == {"LoRA", "VPTDeep"}
    text = write_leaderboard(results, None, [])[1].read_text()
    assert text.count("|  | 100.0 \u2021 |") == 1
    assert text.count("| 1.50 \u2021 | 100.0 \u2021 |") == 1
    assert "- 2 of 5 rows were timed on a busy machine" in text


def test_the_load_is_by_processor(monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (6.0, 1.0, 1.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert machine_load() == 1.5
    monkeypatch.delattr("os.getloadavg")  # as on Windows
    assert machine_load() is None
