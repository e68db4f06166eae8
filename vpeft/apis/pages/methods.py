"""The page of methods: which method works on which host, and how many parameters it has."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import timm
from torch import nn

from vpeft.apis.config.load import config_files, load_config
from vpeft.apis.config.recipes import method_rows
from vpeft.apis.results.published.tables import FOLDER
from vpeft.core.adaptation.attach import attach
from vpeft.core.adaptation.peft_backbone import methods_of
from vpeft.core.contract.build import build_method
from vpeft.core.contract.method import Method
from vpeft.core.models.build import meta_build
from vpeft.errors import UserError
from vpeft.registry import HOSTS, MODELS, PEFT_METHODS

PUBLISHED = FOLDER / "parameters.json"
SWIN = {"type": "SwinTransformer", "img_size": 224, "out_indices": [0, 1, 2, 3], "_scope_": "mmpretrain"}
SWIN_B = {"embed_dims": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 7}
SWIN_L = {"embed_dims": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 7}
DENSE = {"type": "SwinTransformer", "_scope_": "mmdet"}
SEG_VIT = {"type": "VisionTransformer", "img_size": 512, "final_norm": True, "_scope_": "mmseg"}
VIDEO_VIT = {"type": "VisionTransformer", "patch_size": 16, "num_frames": 8, "_scope_": "mmaction"}
VIDEO_SWIN = {"type": "SwinTransformer3D", "arch": "base", "pretrained2d": False, "_scope_": "mmaction"}
VIDEO_SWIN |= {"patch_size": (2, 4, 4), "window_size": (8, 7, 7)}
#: A backbone of each host for the matrix: whose settings of the methods it takes (the suffix of configs in
#: ``configs/vtab/``, or a table in ``configs/_base_/methods/``), and how to build it.
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "mmpretrain.VisionTransformer": ("vit", {"type": "VisionTransformer", "arch": "base", "_scope_": "mmpretrain"}),
    "mmpretrain.SwinTransformer": ("swin", {**SWIN, "arch": "base"}),
    "timm.VisionTransformer": ("vit", {"timm": "vit_base_patch16_224"}),
    "timm.SwinTransformer": ("swin", {"timm": "swin_base_patch4_window7_224"}),
    "mmdet.SwinTransformer": ("dense", {**DENSE, **SWIN_B}),
    "mmseg.SwinTransformer": ("dense", {**DENSE, **SWIN_L, "_scope_": "mmseg"}),
    "mmseg.VisionTransformer": ("dense", {**SEG_VIT, "out_indices": [2, 5, 8, 11]}),
    "mmaction.VisionTransformer": ("video", VIDEO_VIT),
    "mmaction.SwinTransformer3D": ("video_swin", VIDEO_SWIN),
}
#: Those that parameters are counted on.
COUNTED: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT-B/16": BACKBONES["mmpretrain.VisionTransformer"],
    "Swin-B": BACKBONES["mmdet.SwinTransformer"],
    "Swin-L": ("dense", {**DENSE, **SWIN_L}),
    "VideoMAE ViT-B": BACKBONES["mmaction.VisionTransformer"],
    "Video Swin-B": BACKBONES["mmaction.SwinTransformer3D"],
}


@functools.cache
def plain(name: str) -> nn.Module:
    """One of the backbones, on the meta device: nothing is allocated."""
    options = {**BACKBONES, **COUNTED}[name][1]
    with meta_build():
        return timm.create_model(options["timm"]) if "timm" in options else MODELS.build(dict(options))


def count_on(name: str, method: Method) -> int:
    """Parameters of a method on one of the backbones by its formula.

    Raises:
        UserError: The host refuses the method.
    """
    with meta_build():
        (adaptation,) = attach(plain(name), [method])
    try:
        return method.count(adaptation.host)
    finally:
        adaptation.detach()


def shipped_options(root: str = "configs") -> dict[tuple[str, str], dict[str, Any]]:
    """Settings of every method by its name and the kind of backbone (see ``BACKBONES``)."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in config_files(Path(root) / "vtab"):
        (method,) = methods_of(load_config(path))
        if "supernet" not in path:
            found[(method.pop("type"), Path(path).stem.rsplit("_", 1)[1])] = method
    for kind in ("dense", "video", "video_swin"):
        for row in method_rows(Path(root) / "_base_" / "methods" / f"{kind}.py")[0].values():
            method = dict(row)
            found[(method.pop("type"), kind)] = method
    return found


def methods_page(root: str = "configs") -> str:
    """The page, as Markdown."""
    options = shipped_options(root)
    published = json.loads(PUBLISHED.read_text())
    order = sorted(PEFT_METHODS.module_dict, key=lambda n: (PEFT_METHODS.get(n).category, n.lower()))
    refusals: list[str] = []
    lines = [
        "# Methods",
        "",
        "Written by `tools/methods_page.py`, which attaches every method to every host; do not edit by hand.",
        "",
        "## Where they work",
        "",
        "Memory: what back-propagation visits. M0 nothing of the backbone, M1 its upper part, M2 the activations of",
        "all blocks; with w also dense weight gradients. A star marks what could not be checked against the authors'",
        "own code or paper; see below.",
        "",
        markdown_row("method", "category", "memory", "merges", *sorted(HOSTS.module_dict)),
        markdown_row(*["---"] * (4 + len(HOSTS.module_dict))),
    ]
    for name in order:
        cls, cells = PEFT_METHODS.get(name), []
        for host in sorted(HOSTS.module_dict):
            kind = BACKBONES[host][0]
            try:
                count_on(host, build_method({"type": name, **options.get((name, kind), {})}))
                cells.append("works")
            except UserError as error:
                refusals.append(f"- {name} on {host}: {error}")
                cells.append("refused")
        star = "*" if cls.unverified else ""
        lines.append(markdown_row(f"{name}{star}", cls.category, cls.memory, merges(cls), *cells))
    lines += ["", "Refused, in the words of the error:", "", *refusals, "", *_counts(order, options, published)]
    lines += ["", "## Not verified", ""]
    lines += [f"- **{n}**: {PEFT_METHODS.get(n).unverified}" for n in order if PEFT_METHODS.get(n).unverified]
    lines += ["", "## Papers", "", *(f"- **{name}**: {PEFT_METHODS.get(name).paper}" for name in order)]
    return "\n".join(lines) + "\n"


def merges(cls: type[Method]) -> str:
    """Whether a method leaves no trace at inference."""
    if cls.mergeable:
        return "yes"
    return "partly" if cls.partly_mergeable else cls.merges_with or "no"


def _counts(order: list[str], options: Mapping, published: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Parameters",
        "",
        "Trained parameters of the backbone in millions (heads and necks left out), by each method's formula, with the",
        "hyper-parameters of `configs/vtab/` on ViT-B/16 (those in the note where the published row has others) and of",
        "`configs/_base_/methods/` on the dense backbones (with four output norms) and those of video, beside the",
        f"published figure; = marks agreement. Source: {published['source']}.",
        "",
        markdown_row("method", *(f"{name} | published" for name in COUNTED), "note"),
        markdown_row(*["---"] * (2 + 2 * len(COUNTED))),
    ]
    for name in order:
        entry = published["methods"].get(name, {})
        cells, others = [], set()
        for backbone, (kind, _) in COUNTED.items():
            changed = entry.get("options", {}).get(kind, {})
            others |= {f"{kind}: {k} {v}" for k, v in changed.items()}
            printed = entry.get(backbone, "")
            try:
                count = count_on(backbone, build_method({"type": name, **options.get((name, kind), {}), **changed}))
                cells += [f"{count / 1e6:.4f}", printed + agrees(count, printed)]
            except UserError:
                cells += ["", printed]
        note = " ".join([*(f"({other})" for other in sorted(others)), entry.get("note", "")]).strip()
        lines.append(markdown_row(name, *cells, note))
    return lines


def agrees(count: int, printed: str) -> str:
    """A mark where the count, rounded as the published figure, is that figure."""
    if not printed:
        return ""
    return " =" if round(Decimal(count) / 10**6, -Decimal(printed).as_tuple().exponent) == Decimal(printed) else ""


def markdown_row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
