"""The cost benchmark, in a process of its own on a tiny ViT. Bytes are asserted, times are not."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vpeft  # noqa: F401  registers the methods
from vpeft.registry import PEFT_METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def train_step():
    """The script as a module."""
    sys.path.insert(0, str(ROOT))
    try:
        yield importlib.import_module("benchmarks.steps.train_step")
    finally:
        sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def quick(train_step):
    """The result of a quick run in this process."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        yield train_step.run(train_step.parse(["--quick", "--rounds", "2"]), lambda text: None)
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


@pytest.fixture(scope="module")
def entries(quick):
    return {row["name"]: row for row in quick["entries"]}


def test_every_method_has_a_row(train_step, quick, entries):
    # A method that refuses the host is named with its reason instead.
    assert set(PEFT_METHODS.module_dict) == set(entries) & set(PEFT_METHODS.module_dict) | set(quick["refused"])
    assert {"LoRA", "Mona", "SSF", "VPTDeep", "Linear", "Full"} <= set(entries)
    text = train_step.show(quick)
    for name in (*entries, *quick["refused"]):
        assert name in text
    for package in ("torch", "timm", "peft"):
        assert quick["versions"][package]
    assert quick["machine"]["device"]
    assert quick["settings"]["threads"] == 1


def test_times_are_complete_and_relative_to_the_floor(entries):
    for row in entries.values():
        assert len(row["times_ms"]) == 2
        assert min(row["times_ms"]) > 0
        assert 0 < row["time_ms"]["min"] <= row["time_ms"]["q1"] <= row["time_ms"]["median"] <= row["time_ms"]["q3"]
        assert row["time_ratio"]["median"] > 0
    assert entries["floor"]["time_ratio"]["median"] == 1.0
    assert entries["floor"]["saved_ratio"] == 1.0
    assert entries["floor"]["peak_ratio"] == 1.0
    # The ratio is the median of those within the rounds: of two, their mean.
    rounds = [a / b for a, b in zip(entries["plain"]["times_ms"], entries["floor"]["times_ms"], strict=True)]
    assert math.isclose(entries["plain"]["time_ratio"]["median"], sum(rounds) / 2, rel_tol=1e-9)


def test_the_floor_keeps_what_the_equations_say(entries):
    # Two blocks of width 192 with 3 heads and 2 x (16 + 1) tokens, in float32. A frozen linear needs only its weight
    # for the gradient of its input. The rest: the inputs of both norms (1 + 1 widths), q, k, v (3), the output of
    # attention (1) and the input of GELU (4); per token mean and deviation of two norms, per token and head the
    # log-sum of the softmax.
    tokens = 2 * 17
    block = tokens * (10 * 192 + 2 * 2 + 3) * 4
    # The last norm keeps its input, mean and deviation; cross-entropy keeps log-probabilities and the total weight.
    end = tokens * (192 + 2) * 4 + 2 * 100 * 4 + 4
    assert entries["floor"]["saved_bytes"] == 2 * block + end


def test_lora_keeps_no_more_than_peft(quick, entries):
    ours, theirs = entries["LoRA qkv"], entries["peft LoRA qkv"]
    assert ours["trainable"] == theirs["trainable"] == 2 * 8 * (192 + 3 * 192) + 193 * 100
    assert ours["saved_bytes"] <= theirs["saved_bytes"]
    pair = next(p for p in quick["comparisons"] if p["ours"] == "LoRA qkv")
    assert pair["saved_ratio"] == ours["saved_bytes"] / theirs["saved_bytes"] <= 1
    # Both factors need a gradient, so the input of qkv and the code are kept beside what the floor keeps.
    assert ours["saved_bytes"] > entries["floor"]["saved_bytes"]


def test_nothing_placed_keeps_the_same_as_the_plain_model(entries):
    assert entries["Full"]["saved_bytes"] == entries["plain"]["saved_bytes"] == entries["plain again"]["saved_bytes"]
    assert entries["Full"]["trainable"] == entries["plain"]["trainable"]
    assert entries["floor"]["trainable"] == 0


@pytest.mark.slow
def test_another_process_saves_the_same_bytes(tmp_path, entries):
    path = tmp_path / "again.json"
    args = ["--quick", "--rounds", "1", "--methods", "LoRA", "Mona", "--json", str(path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(ROOT / "benchmarks/steps/train_step.py"), *args]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "LoRA qkv against peft, step: time x" in done.stdout
    result = json.loads(path.read_text())
    assert result["command"].startswith("benchmarks/steps/train_step.py --quick --rounds 1")
    again = {row["name"]: row["saved_bytes"] for row in result["entries"]}
    assert {"LoRA", "Mona", "Full"} <= set(again)
    assert "SSF" not in again
    assert again == {name: entries[name]["saved_bytes"] for name in again}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--methods", "LoRa"], "did you mean 'LoRA'"),
        (["--model", "vit_of_nowhere"], "'vit_of_nowhere'"),
    ],
)
def test_wrong_use_is_one_line(train_step, capsys, args, words):
    assert train_step.main(args) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]


def test_a_step_needs_an_image(train_step, capsys):
    with pytest.raises(SystemExit):
        train_step.main(["--batch", "0"])
    assert "--batch must be at least 1" in capsys.readouterr().err
