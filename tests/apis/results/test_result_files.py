"""Result files: sealed, checked, read, and the cells that are made of them."""

import json
import runpy
from pathlib import Path

import pytest
from support.results import result, store

from vpeft import UserError
from vpeft.apis.results.files import cells, read_result, read_results, write_result
from vpeft.apis.results.tables import as_csv, as_json, cell_runs, comparison, markdown


def test_round_trip(tmp_path):
    (path,) = store(tmp_path, result("LoRA", "digits", 3, 0.5, variant={"shots": 5}))
    found = read_result(path)
    assert found["main_metric"] == {"name": "accuracy/top1", "value": 0.5}
    assert found["variant"] == {"shots": 5}
    assert found["format"] == 1
    assert len(found["checksum"]) == 64


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_broken_files_are_named_and_left_out(tmp_path):
    paths = store(tmp_path, *(result("LoRA", "digits", seed, 0.5) for seed in range(6)))
    paths[0].write_bytes(paths[0].read_bytes()[:200])  # truncated
    edit(paths[1], lambda r: r["main_metric"].update(value=0.99))  # edited by hand
    edit(paths[2], lambda r: r.pop("protocol"))  # of another format
    paths[3].write_text("[]")
    paths[4].write_bytes(b"\xff\xfe\x00")
    results = read_results(tmp_path)
    assert list(results.runs) == [paths[5]]
    assert len(results.broken) == 5
    for path, word in zip(
        paths[:5], ("truncated", "changed after", "'protocol'", "no result", "truncated"), strict=True
    ):
        (fault,) = [text for text in results.broken if str(path) in text]
        assert word in fault
    text = markdown(results)
    assert "| LoRA | 1,000 | 50.0 |" in text
    assert text.count("left out") == 5


def test_what_is_no_result_is_not_written(tmp_path):
    wrong = result("LoRA", "digits", 0, 50.0)  # percent where a share belongs
    with pytest.raises(UserError, match=r"main_metric\.value"):
        write_result(tmp_path / "a.json", wrong)
    assert not (tmp_path / "a.json").exists()
    with pytest.raises(UserError, match="error"):
        write_result(tmp_path / "a.json", {**wrong, "status": "failed"})


def test_a_folder_without_results_says_so(tmp_path):
    with pytest.raises(UserError, match=r"tools/benchmark\.py"):
        read_results(tmp_path)


def test_runs_off_the_protocol_and_failures_are_left_out(tmp_path):
    off = {"test_looks": 0, "faults": ["evaluated on val200, not on the test set"]}
    store(
        tmp_path,
        result("LoRA", "digits", 0, 0.5),
        result("LoRA", "digits", 1, 0.9, protocol=off),
        {**result("SSF", "digits", 0, 0.5), "status": "failed", "error": "Trace\nValueError: no"},
    )
    results = read_results(tmp_path)
    text = markdown(results)
    assert "| LoRA | 1,000 | 50.0 | **50.0** | 50.0 | 0.500 | 1 |" in text
    assert "1 runs off the protocol: evaluated on val200" in text
    assert "failed: ssf_nano_vit.py on digits, seed 0: ValueError: no" in text
    assert "| LoRA | 1,000 | 70.0 |" in markdown(results, everything=True)


def test_a_cell_says_which_runs_it_is_from(tmp_path):
    a, b = store(tmp_path, result("LoRA", "digits", 0, 0.5), result("LoRA", "digits", 1, 0.6))
    off = {"test_looks": 2, "faults": ["EarlyStoppingHook may choose the epoch"]}
    (c,) = store(tmp_path, result("LoRA", "digits", 2, 0.9, protocol=off))
    text = cell_runs(read_results(tmp_path), "LoRA", "digits")
    assert text.splitlines()[0] == "LoRA on digits: 55.0 ± 7.1 from"
    assert f"seed 0: 50.00  {a}" in text
    assert f"seed 1: 60.00  {b}" in text
    assert f"left out, EarlyStoppingHook may choose the epoch: {c}" in text
    with pytest.raises(UserError, match="did you mean 'LoRA'"):
        cell_runs(read_results(tmp_path), "LoRa2", "digits")


def test_a_changed_config_takes_the_place_of_its_older_runs(tmp_path, monkeypatch):
    (old,) = store(tmp_path, result("LoRA", "digits", 0, 0.5))
    edited = json.loads(old.read_text())
    store(tmp_path, result("LoRA", "digits", 1, 0.7, config_text="edited"))
    edited.pop("checksum")
    from vpeft.apis.results import files as module

    edited["written"] = "2020-01-01T00:00:00+00:00"
    edited["checksum"] = module.checksum(edited)
    old.write_text(json.dumps(edited))
    cell = cells(read_results(tmp_path))[("LoRA", "nano_vit", "")]["digits"]
    assert cell.values == {1: 0.7}
    assert cell.older == [old]
    assert "1 runs of settings that were changed since" in markdown(read_results(tmp_path))


def test_filter_names_the_nearest(tmp_path):
    store(tmp_path, result("LoRA", "digits", 0, 0.5), result("SSF", "tissue", 1, 0.5))
    results = read_results(tmp_path)
    assert [r["method"] for r in results.filtered(task=["tissue"], seed=["1"]).runs.values()] == ["SSF"]
    assert len(results.filtered(task=None).runs) == 2
    with pytest.raises(UserError, match="did you mean 'tissue'"):
        results.filtered(task=["tisue"])


def test_csv_and_json_lead_to_the_files(tmp_path):
    (path,) = store(tmp_path, result("LoRA", "digits", 0, 0.5))
    results = read_results(tmp_path)
    head, line = as_csv(results).splitlines()
    row = dict(zip(head.split(","), line.split(","), strict=True))
    assert row["value"] == "0.5"
    assert row["parameters"] == "1000"
    assert tmp_path / row["file"] == path
    (entry,) = json.loads(as_json(results))
    assert entry["tasks"]["digits"] == {"values": {"0": 0.5}, "runs": [str(path.relative_to(tmp_path))]}


def test_comparison_in_words(tmp_path):
    store(tmp_path, *(result("LoRA", "digits", s, 0.5 + 0.1 * s) for s in range(3)))
    store(tmp_path, *(result("SSF", "digits", s, 0.4 + 0.12 * s) for s in range(3)))
    text = comparison(read_results(tmp_path), False, "LoRA", "SSF")
    # Differences 0.10, 0.08, 0.06: mean 0.08, standard error 0.02 / sqrt(3), t(2) = 4.3027.
    assert "LoRA - SSF: +8.00 points, mean over 1 tasks of the mean over seeds, 3 pairs of runs" in text
    assert "other seeds, these tasks: +3.03 to +12.97" in text
    assert "other tasks: too few to say" in text


def test_the_tool_filters_prints_and_names_what_is_broken(tmp_path, monkeypatch, capsys):
    paths = store(
        tmp_path, result("LoRA", "digits", 0, 0.5), result("SSF", "digits", 0, 0.4), result("SSF", "digits", 1, 0.6)
    )
    paths[1].write_text("{")
    tool = str(Path(__file__).parents[3] / "tools" / "results.py")
    for args, words in (
        ([], "| LoRA | 1,000 | 50.0 |"),
        (["--method", "SSF", "--as", "list"], "SSF | nano_vit | digits | seed 1 | 60.0 %"),
        (["--cell", "LoRA", "digits"], str(paths[0])),
        (["--plots", str(tmp_path / "figures")], "pareto_parameters.png"),
    ):
        monkeypatch.setattr("sys.argv", [tool, str(tmp_path), *args])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(tool, run_name="__main__")
        said = capsys.readouterr()
        assert end.value.code == 0
        assert words in said.out
        assert f"left out: {paths[1]} is truncated" in said.err
