"""A step of a compiled model: against the same uncompiled, and against the compiled plain model, as ratios in one run.

    python benchmarks/steps/compiled_step.py [--model vit_tiny_patch16_224] [--size 64] [--patch 8] [--depth 12]
        [--batch 8] [--methods LoRA AdaptFormer ...] [--rounds 9] [--device cpu|cuda] [--backend inductor] [--json FILE]

Rows: the plain model, all of it trained; the sites with nothing placed, all of it trained; each method. ``step`` is
forward in train mode, cross-entropy, backward; ``forward`` a pass in evaluation without a graph. Every row is compiled
whole (``fullgraph=True``); with ``--device cuda`` into CUDA graphs (``mode="reduce-overhead"``), under autocast to
bfloat16. Time is taken in rounds: in each, every row takes one step uncompiled and one compiled, in an order drawn
anew; a ratio is taken within a round, and the median over the rounds is shown with its quartiles. What compiling takes,
with the first two steps, is shown in seconds and is in no ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vpeft  # isort: skip  # mends torchvision without operators, which timm imports
import timm

METHODS = ("LoRA", "AdaptFormer", "VPTDeep", "SSF", "Mona", "BitFit", "DTL", "LST")
KINDS = ("step", "forward")


@dataclass
class Row:
    """A model and its compiled copy.

    Attributes:
        name: Of the row.
        model: Uncompiled.
        first: Seconds of compiling with the first two steps, by kind.
        seconds: Of every round, by kind and by whether it is compiled.
    """

    name: str
    model: nn.Module
    compiled: Callable[[Tensor], Tensor]
    first: dict[str, float] = field(default_factory=dict)
    seconds: dict[tuple[str, bool], list[float]] = field(default_factory=dict)

    def ratios(self, kind: str) -> list[float]:
        """Compiled / uncompiled of every round."""
        pairs = zip(self.seconds[kind, True], self.seconds[kind, False], strict=True)
        return [compiled / uncompiled for compiled, uncompiled in pairs]


def plain_model(args: argparse.Namespace) -> nn.Module:
    options = {"img_size": args.size, "patch_size": args.patch, "depth": args.depth, "num_classes": 10}
    torch.manual_seed(0)
    return timm.create_model(args.model, **options).to(args.device)


def rows(args: argparse.Namespace) -> list[Row]:
    """The plain model, the sites with nothing placed, and each method; all with the same base."""
    base = plain_model(args)
    models = {"plain": copy.deepcopy(base), "nothing placed": vpeft.attach(copy.deepcopy(base), {"type": "Full"})}
    for name in args.methods:
        models[name] = vpeft.attach(copy.deepcopy(base), {"type": name})
    how = {"mode": "reduce-overhead"} if args.device == "cuda" else {"backend": args.backend}
    return [Row(name, model, torch.compile(model, fullgraph=True, **how)) for name, model in models.items()]


def run(row: Row, kind: str, compiled: bool, images: Tensor, labels: Tensor) -> float:
    """One step or pass; its seconds."""
    call = row.compiled if compiled else row.model
    cuda = images.is_cuda
    cast = torch.autocast("cuda", torch.bfloat16) if cuda else contextlib.nullcontext()
    row.model.train(kind == "step")
    if cuda:
        torch.cuda.synchronize()
        torch.compiler.cudagraph_mark_step_begin()
    start = time.perf_counter()
    if kind == "forward":
        with torch.no_grad(), cast:
            call(images)
    else:
        with cast:
            loss = F.cross_entropy(call(images).float(), labels)
        loss.backward()
        row.model.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measured(args: argparse.Namespace, say: Callable[[str], None] = print) -> list[Row]:
    """Compile everything, then go through the rounds."""
    found = rows(args)
    torch._dynamo.config.recompile_limit = 4 * len(found)  # of one piece of code, which all these models share
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    labels = torch.arange(args.batch, device=args.device) % 10
    for row in found:
        for kind in KINDS:
            row.first[kind] = sum(run(row, kind, True, images, labels) for _ in range(2))
            run(row, kind, False, images, labels)
            say(f"{row.name}: {kind} compiled in {row.first[kind]:.0f} s")
    draw = random.Random(0)
    for _ in range(args.rounds):
        for kind in KINDS:
            for row in draw.sample(found, len(found)):
                for compiled in draw.sample((False, True), 2):
                    took = run(row, kind, compiled, images, labels)
                    row.seconds.setdefault((kind, compiled), []).append(took)
    return found


def ratio(above: list[float], below: list[float]) -> str:
    """Median and quartiles of the ratios within rounds."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else 3 * each
    return f"{middle:.2f} ({low:.2f}, {high:.2f})"


def table(found: list[Row]) -> list[str]:
    """In Markdown: milliseconds, compiled / uncompiled, compiled / the compiled plain model."""
    lines = [
        "| | row | uncompiled ms | compiled ms | compiled / uncompiled | compiled / compiled plain | compiling s |"
    ]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for kind in KINDS:
        plain = found[0].seconds[kind, True]
        for row in found:
            eager, compiled = row.seconds[kind, False], row.seconds[kind, True]
            ms = [f"{statistics.median(times) * 1e3:.1f}" for times in (eager, compiled)]
            cells = [kind, row.name, *ms, ratio(compiled, eager), ratio(compiled, plain), f"{row.first[kind]:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--backend", default="inductor", help="on the CPU")
    parser.add_argument("--json", type=Path, help="every single time")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> list[Row]:
    args = options(arguments)
    found = measured(args)
    print(
        f"{args.model}, {args.size} x {args.size}, batch {args.batch}, {args.rounds} rounds, torch {torch.__version__}"
    )
    print("\n".join(table(found)))
    if args.json:
        kept: dict[str, Any] = {"options": {**vars(args), "json": str(args.json)}, "torch": torch.__version__}
        times = [
            {
                "row": row.name,
                "first": row.first,
                "seconds": {
                    f"{kind}, {'compiled' if how else 'uncompiled'}": s for (kind, how), s in row.seconds.items()
                },
            }
            for row in found
        ]
        args.json.write_text(json.dumps({**kept, "rows": times}, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
