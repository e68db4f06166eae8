"""Images a second, and peak memory, of a training step in bfloat16.

    python benchmarks/steps/bf16_step.py --device cuda --batch 256

The step of ``train_step.py`` under torch's autocast to bfloat16 (weights stay float32; what is saved holds copies of
them); the methods are those of the VTAB-1k table (``vtab_table.py``) unless named. Ratios are to the floor.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import vpeft  # isort: skip  # noqa: F401  mends torchvision

import torch
from torch import Tensor, nn

from benchmarks.common.measuring import MIB, Entry, byte_ratio, classification_loss, measure, spread, time_ratio
from benchmarks.common.vtab_table import table_methods
from benchmarks.steps.train_step import CLASSES, attached, base_and_images, clone, floor_model
from vpeft.errors import UserError


class AutocastLoss:
    """The loss of a classifier under autocast to bfloat16."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device).type

    def __call__(self, model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            return classification_loss(model, inputs)


class Prediction(nn.Module):
    """A model whose forward pass runs under autocast to bfloat16."""

    def __init__(self, model: nn.Module, device: str) -> None:
        super().__init__()
        self.model, self.device = model, torch.device(device).type

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            return self.model(images)


def measure_methods(
    name: str,
    build: dict[str, Any],
    batch: int,
    device: str,
    rounds: int,
    methods: Sequence[str],
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Images a second of a prediction, the floor and each method.

    Args:
        name: A model of timm.
        build: Further options of it.
        batch: Images of a step.
        device: ``cpu`` or ``cuda``.
        rounds: Timed steps of each.
        methods: Registered names; the table's unless given.
        report: Told what is done.

    Returns:
        Rows with ``what``, ``value`` (images a second), ``ratio`` of times, ``saved`` and ``peak`` to the floor's, and
        ``peak_mib``.
    """
    base, images = base_and_images(name, build, batch, device)
    inputs = images, torch.randint(CLASSES, (batch,), device=device)
    loss, refused = AutocastLoss(device), []
    entries = [
        Entry("forward", Prediction(clone(base), device), inputs, train=False),
        Entry("floor", floor_model(base), inputs, loss),
    ]
    for method in dict.fromkeys(methods or table_methods()):
        try:
            entries.append(Entry(method, attached(base, method), inputs, loss))
        except UserError as error:
            refused.append({"what": method, "refused": str(error)})
    measure(entries, [], rounds, report)
    return [_row(entry, entries[1], batch) for entry in entries] + refused


def _row(entry: Entry, floor: Entry, batch: int) -> dict[str, Any]:
    seconds = spread(entry.times)
    return {
        "what": entry.name,
        "value": batch / seconds["median"],
        "unit": "images/s",
        "q1": batch / seconds["q3"],
        "q3": batch / seconds["q1"],
        "ratio": time_ratio(entry, floor)["median"],
        "saved": byte_ratio(entry.saved_bytes, floor.saved_bytes),
        "peak": byte_ratio(entry.peak_bytes, floor.peak_bytes),
        "peak_mib": entry.peak_bytes / MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=[])
    args = parser.parse_args()
    rows = measure_methods(
        args.model, {}, args.batch, args.device, args.rounds, args.methods, lambda text: print(text, file=sys.stderr)
    )
    for row in rows:
        if "refused" in row:
            print(f"{row['what']} refuses this host: {row['refused']}")
        else:
            print(
                f"{row['what']:20s} {row['value']:8.1f} images/s, {row['ratio']:.3f} x floor, {row['peak_mib']:.0f} MiB"
            )


if __name__ == "__main__":
    main()
