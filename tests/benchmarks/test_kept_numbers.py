"""Numbers kept per token: the floor is what its equation says; methods that train nothing below keep nothing."""

import importlib
import sys
from pathlib import Path

import pytest

W = 192  # the width of the tiny ViT, which has 3 heads
FLOOR = 10 * W + 2 * 2 + 3
#: Numbers per token and per block, with the default hyper-parameters. A norm in front of a trained reader keeps
#: its output and one number, not its input and two. Dropout on the CPU keeps its noise as numbers.
KEPT = {
    "SSF": (FLOOR + 2 * W, 0),  # the outputs of proj and fc2
    "IA3": (FLOOR, 10 * W),  # l and no shift of qkv's 3 W outputs, l of the 4 W hidden ones
    "LoRA": (FLOOR - 1 + 2 * 8, 2 * 8 * 4 * W),  # codes of q and v; both factors side by side
    "DoRA": (FLOOR - 1 + 2 * 8, 2 * 8 * 4 * W + 9 * W),  # and gains, shifts, and what the shifts are made of
    "Hydra": (FLOOR + 4 * 2 * 2, 0),  # four branches: a code and its noise of rank 2
    "GPS": (FLOOR - 2, 0),
    "KAdaptation": (FLOOR - 1, 2 * W * W / 4),  # a byte for each number of H
    "FacT-TT": (FLOOR - 2 + 25 * 16, 4 * 16**2),  # codes: 7 r before S, 9 r behind it, with noise; S of fc2 turned
    "FacT-TK": (FLOOR - 2 + 25 * 32, 12 * 32**2),  # S of every slice
    "LoRand": (FLOOR + 2 * W + 2 * 2 * 16, 2 * 2 * 16 * (W + W // 2)),  # the inputs, two codes; P and K Q
}


@pytest.fixture(scope="module")
def kept_bytes():
    """The script as a module."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    try:
        yield importlib.import_module("benchmarks.memory.kept_bytes")
    finally:
        sys.path.pop(0)


def test_the_floor_is_what_its_equation_says(kept_bytes):
    assert kept_bytes.floor_numbers(192) == 1927
    rows = {row["what"]: row for row in kept_bytes.measure_kept("vit_tiny_patch16_224", 32, ["Linear", "BitFit"])}
    assert (rows["floor"]["value"], rows["floor"]["numbers"], rows["floor"]["block"]) == (1.0, 1927, 0)
    assert rows["Linear"]["numbers"] == 0
    assert rows["BitFit"]["value"] == 1.0  # a bias needs no activation
    assert rows["floor"]["bound"] is None


def test_a_method_that_refuses_is_named(kept_bytes):
    (_, row) = kept_bytes.measure_kept("vit_tiny_patch16_224", 32, ["AIM"])
    assert "from frame to frame" in row["refused"]


@pytest.mark.parametrize("method", KEPT)
def test_a_method_keeps_what_its_equation_says(kept_bytes, method):
    assert kept_bytes.kept_numbers("vit_tiny_patch16_224", method, 32) == KEPT[method]
