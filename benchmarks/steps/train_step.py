"""What a training step costs: time and activation memory of every method, as ratios to the floor.

One process, one machine: forward, the floor (forward and the gradient of the activations, no weight trained), full
fine-tuning, every registered method and HuggingFace ``peft``'s LoRA on one timm backbone. What is measured, and how, is
said in docs/cost.md.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler prints a line at each start otherwise

sys.path.insert(0, str(Path(__file__).parents[2]))

import vpeft  # isort: skip  # mends torchvision, which timm and peft import

import timm
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.common.measuring import MIB, Entry, byte_ratio, measure, spread, time_ratio
from vpeft.apis.commands.ending import run_main
from vpeft.core.backbones.find import find_host
from vpeft.core.contract.build import build_method
from vpeft.core.trained.code import git_hash
from vpeft.errors import UserError
from vpeft.files import write_json
from vpeft.registry import PEFT_METHODS, nearest

CLASSES = 100
RANK = 8
QUICK = {"model": "vit_tiny_patch16_224", "build": {"img_size": 64, "depth": 2}, "batch": 2}
PACKAGES = ("torch", "timm", "peft", "vpeft")

#: Pairs whose times are compared within each round: name, ours, the other.
PAIRS = (
    ("noise: plain against plain", "plain again", "plain"),
    ("nothing placed, step", "Full", "plain"),
    ("nothing placed, forward", "forward, nothing placed", "forward"),
    ("LoRA qkv against peft, step", "LoRA qkv", "peft LoRA qkv"),
    ("LoRA qkv against peft, forward", "forward, LoRA qkv", "forward, peft LoRA qkv"),
    ("LoRA qkv, save_memory=mlp against the floor, step", "LoRA qkv, save_memory=mlp", "floor"),
)
LORA = {"type": "LoRA", "targets": ("qkv",), "rank": RANK, "drop": 0.0}


# Entries ------------------------------------------------------------------------------------------------------------


def base_and_images(name: str, build: dict[str, Any], batch: int, device: str) -> tuple[nn.Module, Tensor]:
    """A model of timm with random weights, always the same, and images of noise of its size."""
    torch.manual_seed(0)
    base = timm.create_model(name, num_classes=CLASSES, **build).to(device)
    size = build.get("img_size") or base.pretrained_cfg["input_size"][-1]
    return base, torch.randn(batch, 3, size, size, device=device)


def clone(base: nn.Module) -> nn.Module:
    """A model of its own whose parameters share the values of ``base``; they are only read, as no step is taken."""
    return copy.deepcopy(base, {id(p): nn.Parameter(p.detach()) for p in base.parameters()})


class NewLeaf:
    """Forward pre-hook that makes its module's input the place where the gradient of the activations ends."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].detach().requires_grad_(), *args[1:])


def floor_model(base: nn.Module) -> nn.Module:
    """Nothing trained; the gradient runs from the loss through all blocks to the input of the first."""
    model = clone(base).requires_grad_(False)
    find_host(model).blocks[0].module.register_forward_pre_hook(NewLeaf())
    return model


def peft_lora(base: nn.Module) -> nn.Module:
    """HuggingFace ``peft``'s LoRA on every ``qkv``, with the head trained as ours is."""
    config = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=["qkv"])
    model = get_peft_model(clone(base), config)
    model.base_model.model.get_classifier().requires_grad_(True)
    return model


def attached(base: nn.Module, cfg: str | dict[str, Any]) -> nn.Module:
    return vpeft.attach(clone(base), cfg)


def make_entries(
    base: nn.Module, inputs: tuple[Tensor, Tensor], methods: Iterable[str]
) -> tuple[list[Entry], dict[str, str]]:
    """All entries, and why each of the methods that refuse this host does so."""
    lora = {"rank": RANK, "alpha": RANK, "drop": 0.0, "targets": ["qkv"]}
    entries = [
        Entry("forward", clone(base), inputs, train=False),
        Entry("forward, nothing placed", attached(base, "Full"), inputs, train=False),
        Entry("forward, LoRA qkv", attached(base, LORA), inputs, train=False, config=lora),
        Entry("forward, peft LoRA qkv", peft_lora(base), inputs, train=False, config=lora),
        Entry("floor", floor_model(base), inputs),
        Entry("plain", clone(base), inputs),
        Entry("plain again", clone(base), inputs),
        Entry("LoRA qkv", attached(base, LORA), inputs, config=lora),
        Entry("LoRA qkv, save_memory=mlp", attached(base, {**LORA, "save_memory": "mlp"}), inputs, config=lora),
        Entry("peft LoRA qkv", peft_lora(base), inputs, config=lora),
    ]
    refused = {}
    for name in dict.fromkeys(("Full", *methods)):
        try:
            model = attached(base, name)
        except UserError as error:
            refused[name] = str(error)
            continue
        config = build_method(name).config()
        config.pop("type")
        entries.append(Entry(name, model, inputs, config=config))
    return entries, refused


# Results -----------------------------------------------------------------------------------------------------------


def rows(entries: list[Entry]) -> list[dict[str, Any]]:
    """The table's rows."""
    floor = next(e for e in entries if e.name == "floor")
    return [
        {
            "name": e.name,
            "step": "forward + backward, train mode" if e.train else "forward, eval mode, no graph",
            "config": e.config,
            "trainable": e.trainable() if e.train else None,
            "times_ms": [1e3 * t for t in e.times],
            "time_ms": spread([1e3 * t for t in e.times]),
            "time_ratio": time_ratio(e, floor),
            "saved_bytes": e.saved_bytes,
            "saved_ratio": byte_ratio(e.saved_bytes, floor.saved_bytes),
            "peak_bytes": e.peak_bytes,
            "peak_ratio": byte_ratio(e.peak_bytes, floor.peak_bytes),
        }
        for e in entries
    ]


def comparisons(entries: list[Entry]) -> list[dict[str, Any]]:
    """The pairs, each ours to the other."""
    known = {e.name: e for e in entries}
    return [
        {
            "name": name,
            "ours": ours,
            "other": other,
            "time_ratio": time_ratio(known[ours], known[other]),
            "saved_ratio": byte_ratio(known[ours].saved_bytes, known[other].saved_bytes),
            "peak_ratio": byte_ratio(known[ours].peak_bytes, known[other].peak_bytes),
        }
        for name, ours, other in PAIRS
    ]


# Showing ------------------------------------------------------------------------------------------------------------


def show(result: dict[str, Any]) -> str:
    """The result as text."""
    machine, settings = result["machine"], result["settings"]
    table = Table()
    table.add_column("entry")
    for column in ("trained", "step ms", "q1 - q3", "x floor", "saved MiB", "x floor", "peak MiB", "x floor"):
        table.add_column(column, justify="right")
    for row in result["entries"]:
        time_ms = row["time_ms"]
        table.add_row(
            row["name"],
            "" if row["trainable"] is None else f"{row['trainable']:,}",
            f"{time_ms['median']:.1f}",
            f"{time_ms['q1']:.1f} - {time_ms['q3']:.1f}",
            f"{row['time_ratio']['median']:.3f}",
            *memory_cells(row, "saved"),
            *memory_cells(row, "peak"),
        )
    console = Console(width=130, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(
            f"{settings['model']}, {settings['device']} ({machine['device']}), {settings['threads']} threads, batch "
            f"{settings['batch']}, {settings['rounds']} rounds, torch {result['versions']['torch']}, {result['date']}",
            soft_wrap=True,
        )
        console.print(table)
        console.print("Ratios of time are medians of the ratios within each round.\n")
        for pair in result["comparisons"]:
            console.print(pair_line(pair), soft_wrap=True, markup=False)
        console.print("\nhyper-parameters")
        for row in result["entries"]:
            if row["config"]:
                values = ", ".join(f"{k}={v}" for k, v in row["config"].items())
                console.print(f"  {row['name']}: {values}", soft_wrap=True, markup=False)
        for name, reason in result["refused"].items():
            console.print(f"  {name} refuses this host: {reason}", soft_wrap=True, markup=False)
    return capture.get().rstrip()


def memory_cells(row: dict[str, Any], kind: str) -> tuple[str, str]:
    size, ratio = row[f"{kind}_bytes"], row[f"{kind}_ratio"]
    return ("", "") if size is None else (f"{size / MIB:.1f}", "" if ratio is None else f"{ratio:.3f}")


def pair_line(pair: dict[str, Any]) -> str:
    """One comparison in a line."""
    ratio = pair["time_ratio"]
    line = f"{pair['name']}: time x {ratio['median']:.3f} (q1 {ratio['q1']:.3f}, q3 {ratio['q3']:.3f})"
    for kind in ("saved", "peak"):
        if pair[f"{kind}_ratio"] is not None:
            line += f", {kind} bytes x {pair[f'{kind}_ratio']:.4f}"
    return line


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="vit_base_patch16_224", help="a timm ViT or Swin")
    parser.add_argument("--batch", type=int, default=4, help="images in a step")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    parser.add_argument("--rounds", "--repeats", type=int, default=5, help="timed steps of every entry")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="registered methods; all unless given")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", metavar="OUT", help="write the result there")
    parser.add_argument("--quick", action="store_true", help="a tiny ViT: does everything, its times say little")
    args = parser.parse_args(argv)
    for name in ("batch", "threads", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def run(args: argparse.Namespace, report: Callable[[str], None]) -> dict[str, Any]:
    """Build everything, measure it, and say on what.

    Raises:
        UserError: Unknown model, method or device, or a model that no host reads.
    """
    known = list(PEFT_METHODS.module_dict)
    methods = args.methods or known
    for name in methods:
        if name not in known:
            raise UserError(f"--methods: unknown PEFT method {name!r}: {nearest(name, known)}")
    if not timm.is_model(args.model):
        raise UserError(f"--model: timm has no model {args.model!r}.")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {args.device}: torch finds no GPU here; use cpu.")
    torch.set_num_threads(args.threads)
    build = QUICK["build"] if args.quick else {}
    model, batch = (QUICK["model"], QUICK["batch"]) if args.quick else (args.model, args.batch)
    base, images = base_and_images(model, build, batch, args.device)
    inputs = images, torch.randint(CLASSES, (batch,), device=args.device)
    entries, refused = make_entries(base, inputs, methods)
    measure(entries, [pair[1:] for pair in PAIRS], args.rounds, report)
    on_gpu = args.device.startswith("cuda")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "git": git_hash(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "machine": {
            "device": torch.cuda.get_device_name() if on_gpu else processor(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": platform.system(),
        },
        "settings": {
            "model": model,
            "build": build,
            "classes": CLASSES,
            "batch": batch,
            "image_size": images.shape[-1],
            "dtype": "float32",
            "device": args.device,
            "threads": args.threads,
            "rounds": args.rounds,
        },
        "entries": rows(entries),
        "comparisons": comparisons(entries),
        "refused": refused,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Arguments; those of the process unless given.

    Returns:
        Exit status: 0, or 2 for wrong use.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    try:
        result = run(args, lambda text: print(text, file=sys.stderr, flush=True))
        if args.json:
            write_json(args.json, {"command": shlex.join(["benchmarks/steps/train_step.py", *argv]), **result})
    except UserError as error:
        print(f"train_step.py: {error}", file=sys.stderr)
        return 2
    print(show(result))
    return 0


if __name__ == "__main__":
    run_main(main)
