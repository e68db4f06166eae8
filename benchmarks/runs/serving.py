"""Several adapters on one base: what a switch and a mixed batch cost, as ratios in one run, beside HuggingFace peft.

    python benchmarks/runs/serving.py [--model vit_base_patch16_224] [--adapters 8] [--batch 32] [--rounds 5]

Prints milliseconds of a switch, and of a pass relative to one of the plain base: of one adapter, of a batch that mixes
all adapters in runs (``a a b b``) and shuffled (``a b a b``). LoRA of rank 8 at the same linears in both libraries.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import vpeft  # isort: skip  # mends torchvision without operators, which timm imports
import timm


def median_ms(deed: Callable[[], Any], rounds: int = 1) -> float:
    """Median of the times of a deed in milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        deed()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def ours(name: str, adapters: int, **build: Any) -> tuple[torch.nn.Module, Callable[[Any], Any]]:
    model = timm.create_model(name, num_classes=10, **build).eval()
    for i in range(adapters):
        vpeft.attach(model, {"type": "LoRA", "rank": 8}, name=f"a{i}")
    return model, lambda which: vpeft.use(model, which)


def of_peft(name: str, adapters: int, **build: Any) -> Any:
    import peft

    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=["qkv"], init_lora_weights=False)
    model = peft.get_peft_model(timm.create_model(name, num_classes=10, **build), config, adapter_name="a0")
    for i in range(1, adapters):
        model.add_adapter(f"a{i}", config)
    return model.eval()


def compare_serving(
    name: str, adapters: int, batch: int, rounds: int, **build: Any
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Passes relative to the plain base by round, and milliseconds of a switch, of both libraries.

    Args:
        name: A model of timm.
        adapters: On one base.
        batch: Images of a pass.
        rounds: One after the other, so that a busy machine meets all of them alike.
        **build: Further options of the model.
    """
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=10, **build).eval()
    size = build.get("img_size") or plain.default_cfg["input_size"][-1]
    images = torch.randn(batch, 3, size, size)
    runs = [f"a{i * adapters // batch}" for i in range(batch)]
    shuffled = random.Random(0).sample(runs, len(runs))
    model, use = ours(name, adapters, **build)
    theirs = of_peft(name, adapters, **build)
    rows: dict[str, list[float]] = {}
    with torch.inference_mode():
        plain(images[:1])
        for _ in range(rounds):
            base = median_ms(lambda: plain(images))
            for title, which in (("one adapter", "a0"), ("mixed, in runs", runs), ("mixed, shuffled", shuffled)):
                use(which)
                rows.setdefault(f"vpeft: {title}", []).append(median_ms(lambda: model(images)) / base)
            theirs.set_adapter("a0")
            rows.setdefault("peft: one adapter", []).append(median_ms(lambda: theirs(images)) / base)
            for title, which in (("mixed, in runs", runs), ("mixed, shuffled", shuffled)):
                mixed = median_ms(lambda which=which: theirs(images, adapter_names=which))
                rows.setdefault(f"peft: {title}", []).append(mixed / base)
    names = iter([f"a{i % adapters}" for i in range(1, 101)])
    switch = {"vpeft": median_ms(lambda: use(next(names)), 50)}
    switch["peft"] = median_ms(lambda: theirs.set_adapter(next(names)), 50)
    return rows, switch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rows, switch = compare_serving(args.model, args.adapters, args.batch, args.rounds)
    print(f"{args.model}, {args.adapters} adapters, batch {args.batch}; medians of {args.rounds} rounds")
    print(f"switch, ms: vpeft {switch['vpeft']:.2f}, peft {switch['peft']:.2f}")
    for title, ratios in rows.items():
        print(f"{title:24s} {statistics.median(ratios):.2f} x the plain base")


if __name__ == "__main__":
    main()
