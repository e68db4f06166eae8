"""The table of methods by tasks."""

import json

import pytest

from vpeft.apis.table import markdown


def result(config, task, seed, top1, parameters):
    return {
        "config": f"{config}.py",
        "task": task,
        "seed": seed,
        "metrics": {"accuracy/top1": top1},
        "parameters": {"trainable_without_head": parameters},
        "methods": [{"type": {"a": "LoRA", "b": "Full"}[config]}],
    }


RESULTS = [
    result("a", "digits", 0, 50.0, 90_000_000),
    result("a", "digits", 1, 52.0, 90_000_000),
    result("a", "tissue", 0, 70.0, 90_000_000),
    result("a", "tissue", 1, 72.0, 90_000_000),
    result("b", "digits", 0, 40.0, 0),
    result("b", "tissue", 0, 60.0, 0),
    {**result("b", "tissue", 1, 0.0, 0), "error": "failed"},
]


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]


def test_means_spread_and_ppt():
    head, _, worse, better = rows(markdown(RESULTS, ["digits", "tissue"]))
    assert head[-3:] == ["mean of 2", "mean of groups", "PPT"]
    assert worse == ["b", "0", "40.0", "60.0", "**50.0** ± 0.0", "50.0", "0.500"]
    # PPT: 0.61 exp(-log10(9 + 1)); the spread is that of the seeds' means, 60 and 62.
    assert better == ["a", "90,000,000", "51.0", "71.0", "**61.0** ± 1.4", "61.0", "0.224"]


def test_a_config_without_all_tasks_is_left_out():
    assert len(rows(markdown(RESULTS[:2] + RESULTS[4:], ["digits", "tissue"]))) == 3


@pytest.mark.parametrize(("config", "expected"), [("a", ["0.50", "0.25"]), ("b", ["1.00", "1.00"])])
def test_cost_is_relative_to_full(config, expected, tmp_path):
    def entry(name, ratio, peak, trainable=1):
        return {"name": name, "trainable": trainable, "time_ratio": {"median": ratio}, "peak_bytes": peak}

    file = tmp_path / "cost.json"
    file.write_text(
        json.dumps({"entries": [entry("Full", 1.6, 400), entry("LoRA", 0.8, 100), entry("floor", 1, 1, None)]})
    )
    found = {row[0]: row for row in rows(markdown(RESULTS, ["digits", "tissue"], file))}
    assert found[config][-2:] == expected
