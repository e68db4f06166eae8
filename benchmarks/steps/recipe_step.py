"""What a training step of a detector, a segmentor or a video model costs: time and memory of every method.

One process, one machine: the model of a recipe with each row of its table of methods, relative to full fine-tuning and
to the frozen backbone (``linear``), heads and necks trained in all. What is measured, and how, is said in docs/cost.md.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler prints a line at each start otherwise

sys.path.insert(0, str(Path(__file__).parents[2]))

import vpeft  # isort: skip  # noqa: F401  mends torchvision and mmcv, which the families import

import torch
from mmengine import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.common.measuring import MIB, Entry, byte_ratio, measure, spread, time_ratio
from benchmarks.steps.train_step import processor
from vpeft.apis.commands.ending import run_main
from vpeft.apis.config.load import build_model
from vpeft.apis.config.recipes import compose, recipes, rows_of_table
from vpeft.core.adaptation.report import parameter_report
from vpeft.core.families.metrics import FAMILY_PACKAGES
from vpeft.core.trained.code import git_hash
from vpeft.errors import UserError
from vpeft.files import write_json
from vpeft.registry import nearest

#: Rows that every measurement has: what the others are seen relative to.
REFERENCES = ("full", "linear")


# The batch ----------------------------------------------------------------------------------------------------------


def drawn_detection(cfg: Config, batch: int, size: int) -> dict[str, Any]:
    """Images of noise with boxes and masks by rule, as mmdet's own tests draw them."""
    from mmdet.testing import demo_mm_inputs

    head = cfg.model.get("roi_head", cfg.model).get("bbox_head")
    classes = (head[0] if isinstance(head, Sequence) else head)["num_classes"]
    shapes = [(3, size, size)] * batch
    return demo_mm_inputs(batch, image_shapes=shapes, num_items=[4] * batch, num_classes=classes, with_mask=True)


def drawn_segmentation(cfg: Config, batch: int, size: int) -> dict[str, Any]:
    """Images of noise with label maps of noise."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    classes = cfg.model.decode_head.num_classes
    samples = []
    for _ in range(batch):
        sample = SegDataSample(metainfo={"img_shape": (size, size), "ori_shape": (size, size)})
        sample.gt_sem_seg = PixelData(data=torch.randint(classes, (1, size, size)))
        samples.append(sample)
    return {
        "inputs": [torch.randint(256, (3, size, size), dtype=torch.uint8) for _ in samples],
        "data_samples": samples,
    }


def drawn_video(cfg: Config, batch: int, size: int, frames: int) -> dict[str, Any]:
    """Clips of noise with classes."""
    from mmaction.structures import ActionDataSample

    samples = [ActionDataSample().set_gt_labels(i % cfg.model.cls_head.num_classes) for i in range(batch)]
    shape = (1, 3, frames, size, size)
    return {"inputs": [torch.randint(256, shape, dtype=torch.uint8) for _ in samples], "data_samples": samples}


def drawn_batch(cfg: Config, batch: int, size: int, frames: int) -> dict[str, Any]:
    """A batch of the recipe's family without its data."""
    drawers = {
        "mmdet": lambda: drawn_detection(cfg, batch, size),
        "mmseg": lambda: drawn_segmentation(cfg, batch, size),
        "mmaction": lambda: drawn_video(cfg, batch, size, frames),
    }
    return drawers[cfg.default_scope]()


def real_batch(cfg: Config, batch: int) -> dict[str, Any]:
    """The first batch of the recipe's training data."""
    loader = {**cfg.train_dataloader, "batch_size": batch, "num_workers": 0, "persistent_workers": False}
    return next(iter(Runner.build_dataloader(loader, seed=0)))


class TaskLoss:
    """The model's own loss on a batch that its preprocessor has prepared once."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __call__(self, model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
        losses = model(inputs[0], copy.deepcopy(self.samples), mode="loss")
        return model.parse_losses(losses)[0]


# Entries ------------------------------------------------------------------------------------------------------------


def make_entries(
    recipe: str, methods: Sequence[str], batch: Mapping[str, Any], build: Callable[[Config], nn.Module]
) -> tuple[list[Entry], dict[str, str]]:
    """An entry for each method, and why each of those that the recipe refuses does so."""
    entries, refused = [], {}
    base: nn.Module | None = None
    for name in dict.fromkeys((*REFERENCES, *methods)):
        try:
            cfg = compose(Path(recipe).with_name(f"{name}_{Path(recipe).name}.py"))
            model = build(cfg)
        except UserError as error:
            refused[name] = str(error)
            continue
        if base is None:
            base = model
        share(base, model)
        prepared = model.data_preprocessor(copy.deepcopy(dict(batch)), True)
        entry = Entry(name, model, [prepared["inputs"]], TaskLoss(prepared["data_samples"]))
        entry.config = {**cfg.model.backbone.method, "parameters": parameter_report(model).trainable_without_head}
        entries.append(entry)
    return entries, refused


def share(base: nn.Module, model: nn.Module) -> None:
    """Let ``model`` read the values of ``base`` where both have a parameter; they are never written."""
    values = dict(base.named_parameters())
    for name, param in model.named_parameters():
        if name in values and values[name].shape == param.shape:
            param.data = values[name].data


def rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The table's rows, relative to both references."""
    known = {e.name: e for e in entries}
    references = {"full": known["full"], "frozen": known["linear"]}
    return [
        {
            "name": e.name,
            "config": {k: v for k, v in e.config.items() if k != "parameters"},
            "parameters": e.config["parameters"],
            "trainable": e.trainable(),
            "times_ms": [1e3 * t for t in e.times],
            "time_ms": spread([1e3 * t for t in e.times]),
            "time_ratio": {r: time_ratio(e, o) for r, o in references.items()},
            "saved_bytes": e.saved_bytes,
            "saved_ratio": {r: byte_ratio(e.saved_bytes, o.saved_bytes) for r, o in references.items()},
            "peak_bytes": e.peak_bytes,
            "peak_ratio": {r: byte_ratio(e.peak_bytes, o.peak_bytes) for r, o in references.items()},
        }
        for e in entries
    ]


# Showing ------------------------------------------------------------------------------------------------------------

COLUMNS = ("method", "parameters (M)", "step / full", "step / frozen", "saved MiB", "saved / full", "saved / frozen")
COLUMNS += ("peak MiB", "peak / full", "peak / frozen")


#: From here on a ratio says only that the reference keeps next to nothing, as a frozen model without a neck does.
NOTHING = 1000


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row's figures as text."""
    times, saved, peak = row["time_ratio"], row["saved_ratio"], row["peak_ratio"]
    told = {r: f"{ratio:.2f}" if ratio < NOTHING else "" for r, ratio in saved.items()}
    return [
        row["name"],
        f"{row['parameters'] / 1e6:.4f}",
        *(f"{times[r]['median']:.2f}" for r in ("full", "frozen")),
        f"{row['saved_bytes'] / MIB:.1f}",
        *(told[r] for r in ("full", "frozen")),
        f"{row['peak_bytes'] / MIB:.1f}",
        *(f"{peak[r]:.2f}" for r in ("full", "frozen")),
    ]


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a Markdown table, least saved bytes first."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in sorted(result["entries"], key=lambda r: r["saved_bytes"])]
    return "\n".join(lines) + "\n"


def show(result: Mapping[str, Any]) -> str:
    """The result as text."""
    settings = result["settings"]
    shown = Table()
    for i, column in enumerate(COLUMNS):
        shown.add_column(column, justify="right" if i else "left")
    for row in result["entries"]:
        shown.add_row(*cells(row))
    console = Console(width=150, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(
            f"{settings['recipe']}, input {settings['input']}, {settings['device']} ({result['machine']['device']}), "
            f"{settings['threads']} threads, {settings['rounds']} rounds, torch {result['versions']['torch']}, "
            f"{result['date']}",
            soft_wrap=True,
        )
        console.print(shown)
        for name, reason in result["refused"].items():
            console.print(f"  {name}: {reason}", soft_wrap=True, markup=False)
    return capture.get().rstrip()


# Running ------------------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("recipe", help="folder and recipe, such as configs/detection/swin-b_coco")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="rows of its table of methods; all unless given")
    parser.add_argument("--batch", type=int, default=1, help="images or clips in a step")
    parser.add_argument("--drawn", action="store_true", help="input of noise instead of the recipe's data")
    parser.add_argument("--size", type=int, default=256, help="height and width of what is drawn, in pixels")
    parser.add_argument("--frames", type=int, default=16, help="frames of a drawn clip")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of every entry")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", metavar="OUT", help="write the result there")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table instead")
    args = parser.parse_args(argv)
    for name in ("batch", "threads", "rounds", "size", "frames"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def run(args: argparse.Namespace, report: Callable[[str], None]) -> dict[str, Any]:
    """Build everything, measure it, and say on what.

    Raises:
        UserError: Unknown recipe, method or device.
    """
    folder, name = Path(args.recipe).parent, Path(args.recipe).name
    known = recipes(folder)
    if name not in known:
        raise UserError(f"{folder} has no recipe {name!r}: {nearest(name, known) if known else 'it has none'}")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {args.device}: torch finds no GPU here; use cpu.")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cfg = known[name].load()
    table, _ = rows_of_table(cfg, folder)
    methods = args.methods or list(table)
    for method in methods:
        if method not in table:
            raise UserError(f"--methods: no method {method!r} in its table: {nearest(method, table)}")

    def build(composed: Config) -> nn.Module:
        return build_model(composed).to(args.device)

    build_model(cfg)  # brings the family's packages into the registries
    batch = drawn_batch(cfg, args.batch, args.size, args.frames) if args.drawn else real_batch(cfg, args.batch)
    entries, refused = make_entries(args.recipe, methods, batch, build)
    pairs = [(e.name, "full") for e in entries if e.name != "full"]
    measure(entries, pairs, args.rounds, report)
    packages = ("torch", "onedl-mmengine", "onedl-mmcv", FAMILY_PACKAGES[cfg.default_scope], "vpeft")
    on_gpu = args.device.startswith("cuda")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "git": git_hash(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "machine": {"device": torch.cuda.get_device_name() if on_gpu else processor(), "cores": os.cpu_count()},
        "settings": {
            "recipe": args.recipe,
            "input": list(entries[0].inputs[0].shape),
            "drawn": args.drawn,
            "device": args.device,
            "threads": args.threads,
            "rounds": args.rounds,
        },
        "entries": rows(entries),
        "refused": refused,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Arguments; those of the process unless given.

    Returns:
        Exit status: 0, or 2 for wrong use.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    try:
        result = run(args, lambda text: print(text, file=sys.stderr, flush=True))
        if args.json:
            write_json(args.json, {"command": shlex.join(["benchmarks/steps/recipe_step.py", *argv]), **result})
    except UserError as error:
        print(f"recipe_step.py: {error}", file=sys.stderr)
        return 2
    print(markdown(result) if args.markdown else show(result))
    return 0


if __name__ == "__main__":
    run_main(main)
