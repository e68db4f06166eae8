"""The cost of a step of a recipe's model. Bytes are asserted, times are not."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recipe_step():
    """The script as a module."""
    sys.path.insert(0, str(ROOT))
    try:
        yield importlib.import_module("benchmarks.steps.recipe_step")
    finally:
        sys.path.remove(str(ROOT))


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def measured(script, recipe, *args):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        return script.run(script.parse([recipe, "--rounds", "1", *args]), lambda text: None)
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("recipe", "args", "side"),
    [
        ("configs/mini/nano_swin_detection", ("--size", "64"), "e3va"),
        ("configs/mini/nano_swin_segmentation", ("--size", "64"), "e3va"),
        ("configs/mini/nano_vit_video", ("--size", "32", "--frames", "8"), "last"),
    ],
)
def test_side_networks_keep_less(recipe_step, recipe, args, side):
    """What is kept for the backward pass: frozen < side network < LoRA < full fine-tuning."""
    result = measured(recipe_step, recipe, "--drawn", "--batch", "2", "--methods", "lora", side, *args)
    saved = {row["name"]: row["saved_bytes"] for row in result["entries"]}
    assert saved["linear"] < saved[side] < saved["lora"] < saved["full"]
    row = next(row for row in result["entries"] if row["name"] == "lora")
    assert row["saved_ratio"] == {"full": saved["lora"] / saved["full"], "frozen": saved["lora"] / saved["linear"]}
    assert row["parameters"] < row["trainable"]
    assert len(row["times_ms"]) == 1
    for text in (recipe_step.show(result), recipe_step.markdown(result)):
        assert all(name in text for name in saved)


def test_what_a_recipe_refuses_is_named(recipe_step):
    result = measured(recipe_step, "configs/mini/nano_swin_segmentation", "--drawn", "--size", "32", "--methods", "lst")
    assert {row["name"] for row in result["entries"]} == {"full", "linear"}
    assert "LST" in result["refused"]["lst"] or "lst" in result["refused"]["lst"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["configs/mini/nano_swin_detektion"], "did you mean 'nano_swin_detection'"),
        (["configs/mini/nano_swin_segmentation", "--methods", "lorra"], "did you mean 'lora'"),
    ],
)
def test_wrong_use_is_one_line(recipe_step, capsys, args, words):
    assert recipe_step.main(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_ratio_to_next_to_nothing_is_left_out(recipe_step):
    ratios = {"full": 0.5, "frozen": 2.0}
    row = {"name": "lora", "parameters": 1e6, "saved_bytes": 2**20, "peak_bytes": 2**21, "peak_ratio": ratios}
    row |= {"time_ratio": {r: {"median": ratio} for r, ratio in ratios.items()}}
    kept = {
        frozen: recipe_step.cells({**row, "saved_ratio": {"full": 0.5, "frozen": frozen}}) for frozen in (3.0, 27676.56)
    }
    assert kept[3.0] == ["lora", "1.0000", "0.50", "2.00", "1.0", "0.50", "3.00", "2.0", "0.50", "2.00"]
    assert kept[27676.56] == [*kept[3.0][:6], "", *kept[3.0][7:]]
