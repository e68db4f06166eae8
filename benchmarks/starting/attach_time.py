"""How long does attaching LoRA take, against HuggingFace peft's?

    OMP_NUM_THREADS=1 python benchmarks/starting/attach_time.py --rounds 9

Both put a LoRA of rank 8 at the same linears of the same model, one after the other in an order drawn anew in every
round, and take it away again. The ratio is taken within a round, so a machine that is busy harms both alike; the
median, the quartiles and every round's ratio are printed. The first round warms up and is left out.
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import time
import warnings
from collections.abc import Callable

import vpeft  # isort: skip  mends torchvision

import peft
import timm
import torch
import transformers
from torch import nn

#: Builder, our targets, and the linears that peft is told.
MODELS: dict[str, tuple[Callable[[], nn.Module], list[str], list[str]]] = {
    "timm vit_base_patch16_224": (
        lambda: timm.create_model("vit_base_patch16_224", num_classes=100),
        ["qkv"],
        ["qkv"],
    ),
    "transformers Dinov2Model, base": (
        lambda: transformers.Dinov2Model(transformers.Dinov2Config()),
        ["q", "k", "v"],
        ["query", "key", "value"],
    ),
}
LORA = {"type": "LoRA", "rank": 8}


def ours(model: nn.Module, targets: list[str]) -> float:
    start = time.process_time()
    vpeft.attach(model, {**LORA, "targets": targets})
    seconds = time.process_time() - start
    vpeft.detach(model)
    return seconds


def theirs(model: nn.Module, linears: list[str]) -> float:
    config = peft.LoraConfig(r=8, target_modules=linears)
    start = time.process_time()
    adapted = peft.get_peft_model(model, config)
    seconds = time.process_time() - start
    adapted.unload()
    for param in model.parameters():
        param.requires_grad_(True)
    return seconds


def compare_attaching(
    build: Callable[[], nn.Module], targets: list[str], linears: list[str], rounds: int
) -> list[dict[str, float]]:
    """Seconds of ours and theirs in each round, after one that warms up."""
    model, rows = build(), []
    for _ in range(rounds + 1):
        times = {}
        for which in random.sample(["ours", "theirs"], 2):
            times[which] = ours(model, targets) if which == "ours" else theirs(model, linears)
        rows.append(times)
    return rows[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print(f"torch {torch.__version__}, timm {timm.__version__}, transformers {transformers.__version__},", end=" ")
    print(f"peft {peft.__version__}")
    for name, (build, targets, linears) in MODELS.items():
        rows = compare_attaching(build, targets, linears, args.rounds)
        ratios = [row["ours"] / row["theirs"] for row in rows]
        first, median, third = statistics.quantiles(ratios, n=4)
        seconds = [statistics.median(row[which] for row in rows) for which in ("ours", "theirs")]
        print(f"{name}: {seconds[0]:.3f} s against {seconds[1]:.3f} s, ratio {median:.2f} ({first:.2f}, {third:.2f})")
        print("   each round:", " ".join(f"{ratio:.2f}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main()
