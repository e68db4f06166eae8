"""What each method keeps for the backward pass, in numbers per token and block: measured beside what equations say.

    python benchmarks/memory/kept_bytes.py --model vit_tiny_patch16_224 --methods LoRA SSF

Bytes of autograd at two depths and two batches give, by their differences, what a block keeps for a token and what it
keeps whatever the batch; head, embedding and last norm fall out. The floor is ``10 C + 7`` numbers a token on a ViT
whose MLP is four times as wide as the stream (docs/cost.md derives it); a method's share is relative to that. The
figures are exact: the same on every machine with the same versions and attention kernel.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import vpeft  # isort: skip  # noqa: F401  mends torchvision

import timm
import torch
from torch import nn

from benchmarks.common.measuring import Entry, saved_bytes
from benchmarks.steps.train_step import attached, floor_model
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

#: What saved bytes relative to the floor shall not exceed on ViT-B/16, and its width.
BOUNDS = {"SSF": 1.9, "Hydra": 1.35, "KAdaptation": 1.35, "FacT-TT": 1.45, "FacT-TK": 1.45, "Mona": 1.5, "GPS": 1.3}
BOUNDS |= {"LoRA": 1.05}
WIDTH = 768
FLOOR = "floor"


def floor_numbers(width: int) -> int:
    """Numbers of the floor per token and block: ``10 C``, mean and deviation of two norms, three of attention."""
    return 10 * width + 2 * 2 + 3


def kept_numbers(name: str, method: str, size: int) -> tuple[float, float]:
    """Numbers of four bytes that a block keeps for a token, and whatever the batch.

    Args:
        name: A ViT of timm with patches of 16 pixels.
        method: A registered method, or :data:`FLOOR`.
        size: Height and width of the images, in pixels.
    """
    tokens = (size // 16) ** 2 + 1

    def saved(depth: int, batch: int) -> int:
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, img_size=size, depth=depth, num_classes=5)
        model = floor_model(model) if method == FLOOR else attached(model, method)
        inputs = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.long)
        return saved_bytes(Entry(method, model, inputs))

    one, two = (saved(3, batch) - saved(2, batch) for batch in (2, 4))
    token = (two - one) / (2 * tokens) / 4
    return token, one / 4 - 2 * tokens * token


def measure_kept(name: str, size: int, methods: list[str] | tuple[str, ...]) -> list[dict[str, Any]]:
    """The floor by its equation, and every method relative to it, what a block keeps whatever the batch apart.

    Args:
        name: A ViT of timm with patches of 16 pixels.
        size: Height and width of the images, in pixels.
        methods: Registered names; all unless given.
    """
    width = timm.create_model(name, depth=1, num_classes=0, img_size=size).num_features
    least = floor_numbers(width)
    rows = []
    for method in (FLOOR, *(methods or PEFT_METHODS.module_dict)):
        try:
            token, block = kept_numbers(name, method, size)
        except UserError as error:
            rows.append({"what": method, "refused": str(error)})
            continue
        row = {"what": method, "value": token / least, "unit": "x", "numbers": token, "block": block}
        rows.append({**row, "bound": BOUNDS.get(method) if width == WIDTH else None})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images, in pixels")
    parser.add_argument("--methods", nargs="+", default=[])
    args = parser.parse_args()
    for row in measure_kept(args.model, args.size, args.methods):
        if "refused" in row:
            print(f"{row['what']}: {row['refused']}")
        else:
            more = f"{row['numbers']:.0f} a token, {row['block']:.0f} a block"
            print(f"{row['what']:20s} {row['value']:.3f} x floor, {more}")


if __name__ == "__main__":
    main()
