"""The page of methods: which works on which hosts, and how many parameters it has."""

from __future__ import annotations

import functools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from torch import nn

from vpeft.apis.config.listing import config_files
from vpeft.apis.config.load import load_config
from vpeft.apis.config.recipes import method_rows
from vpeft.apis.pages.by_library import family_of_host
from vpeft.apis.pages.catalogue import CatalogueRow, read_catalogue, untried, whole_hosts
from vpeft.apis.pages.table import markdown_row
from vpeft.apis.results.published.tables import FOLDER
from vpeft.core.adaptation.attach import attach
from vpeft.core.adaptation.peft_backbone import methods_of
from vpeft.core.contract.build import build_method
from vpeft.core.contract.method import Method
from vpeft.core.contract.options import OPTIONS
from vpeft.core.models.build import meta_build
from vpeft.errors import UserError
from vpeft.registry import HOSTS, MODELS, PEFT_METHODS

PUBLISHED = FOLDER / "parameters.json"
DENSE = {"type": "SwinTransformer", "_scope_": "mmdet"}
SWIN_B = {"embed_dims": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 7}
SWIN_L = {"embed_dims": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 7}
VIT = {"type": "VisionTransformer", "arch": "base", "_scope_": "mmpretrain"}
VIDEO_VIT = {"type": "VisionTransformer", "patch_size": 16, "num_frames": 8, "_scope_": "mmaction"}
VIDEO_SWIN = {"type": "SwinTransformer3D", "arch": "base", "pretrained2d": False, "_scope_": "mmaction"}
VIDEO_SWIN |= {"patch_size": (2, 4, 4), "window_size": (8, 7, 7)}
#: The backbones that parameters are counted on: whose settings of the methods they take (the suffix of configs in
#: ``configs/vtab/``, or a table in ``configs/_base_/methods/``), and how to build them.
COUNTED: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT-B/16": ("vit", VIT),
    "Swin-B": ("dense", {**DENSE, **SWIN_B}),
    "Swin-L": ("dense", {**DENSE, **SWIN_L}),
    "VideoMAE ViT-B": ("video", VIDEO_VIT),
    "Video Swin-B": ("video_swin", VIDEO_SWIN),
}


@functools.cache
def plain(name: str) -> nn.Module:
    """One of the backbones, on the meta device: nothing is allocated."""
    with meta_build():
        return MODELS.build(dict(COUNTED[name][1]))


def count_on(name: str, method: Method) -> int:
    """Parameters of a method on one of the backbones by its formula.

    Raises:
        UserError: The host refuses the method.
    """
    with meta_build():
        (adaptation,) = attach(plain(name), [method])
    try:
        return adaptation.count()
    finally:
        adaptation.detach()


def shipped_options(root: str = "configs") -> dict[tuple[str, str], dict[str, Any]]:
    """Settings of every method by its name and the kind of backbone (see ``COUNTED``)."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in config_files(Path(root) / "vtab"):
        (method,) = methods_of(load_config(path))
        if "supernet" not in path and not method.keys() & set(OPTIONS):
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
    found = whole_hosts(read_catalogue())
    takes = Counter(one.method for one in found if one.result == "passed")
    gone = Counter(one.method for one in found)
    lines = [
        "# Methods",
        "",
        "Written by `tools/methods_page.py`; do not edit by hand.",
        "",
        "Memory: what back-propagation visits. M0 nothing of the backbone, M1 its upper part, M2 the activations of",
        "all blocks; with w also dense weight gradients. Start: the first output agrees with the frozen host's in all",
        "bits, but for rounding (on some hosts), or it is another one. A star marks what could not be checked against",
        "the authors' own code or paper; see below.",
        "",
        markdown_row("method", "category", "memory", "merges", "start", "hosts"),
        markdown_row(*["---"] * 6),
    ]
    for name in order:
        cls, star = PEFT_METHODS.get(name), "*" if PEFT_METHODS.get(name).unverified else ""
        works = f"{takes[name]} of {gone[name]}" if gone[name] else "?"
        lines.append(markdown_row(f"{name}{star}", cls.category, cls.memory, merges(cls), cls.stated_start(), works))
    lines += ["", *_hosts(found), "", *_counts(order, options, published)]
    lines += [
        "",
        "## Compiled",
        "",
        "`torch.compile` takes every method whole ([how](running.md#compiled)). Other than",
    ]
    lines += ["uncompiled, with the same outputs, are:", ""]
    lines += [f"- **{n}**: {PEFT_METHODS.get(n).when_compiled}" for n in order if PEFT_METHODS.get(n).when_compiled]
    lines += ["", "## Not verified", ""]
    lines += [f"- **{n}**: {PEFT_METHODS.get(n).unverified}" for n in order if PEFT_METHODS.get(n).unverified]
    lines += ["", "## Papers", "", *(f"- **{name}**: {PEFT_METHODS.get(name).paper}" for name in order)]
    return "\n".join(lines) + "\n"


def _hosts(found: list[CatalogueRow]) -> list[str]:
    """What the hosts of each family take: all of them, some, or none."""
    answers: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for one in found:
        answers[family_of_host(one.host)][one.host][one.method] = one.result
    lines = [
        "## Where they work",
        "",
        "By family: how many methods all its hosts take, which only some take, and which none. A host takes a method",
        "where the contract's tests have passed on a tiny backbone of it ([how](hosts.md#tests)). Each host by itself,",
        "and why a method is not there: [hosts by library](hosts_by_library.md).",
        "",
        markdown_row("family", "hosts", "all take", "some take", "none takes"),
        markdown_row(*["---"] * 5),
    ]
    for name, hosts in sorted(answers.items()):
        takes = {
            method: sum(answer.get(method) == "passed" for answer in hosts.values())
            for method in sorted(PEFT_METHODS.module_dict.keys() - set(untried(found)))
        }
        some = [f"{method} ({n} of {len(hosts)})" for method, n in takes.items() if 0 < n < len(hosts)]
        none = [method for method, n in takes.items() if n == 0]
        every = len(takes) - len(some) - len(none)
        lines.append(markdown_row(name, str(len(hosts)), str(every), ", ".join(some), ", ".join(none)))
    return [*lines, "", *_when(found)]


def _when(found: list[CatalogueRow]) -> list[str]:
    """When the pairs were gone through, with how many options, and what was not."""
    runs = Counter((one.date, one.commit) for one in found)
    pairs = ", ".join(f"{n} on {date} at {commit}" for (date, commit), n in sorted(runs.items()))
    lines = [f"Pairs of hosts and methods that were gone through: {pairs}."]
    passed = [one for one in found if one.result == "passed"]
    all_options = sum(bool(one.variants) for one in passed)
    lines.append(
        f"With all options of the backbone as well: {all_options} of {len(passed)}. There start, gradients and steps, "
        "the formula of the count, merging, files and that every tensor acts are looked at."
    )
    different = [one for one in found if "; " in one.variants]
    lines += [f"- {one.method} on `{one.host}`, options: {one.variants}" for one in different]
    if missing := len(set(HOSTS.module_dict) - {one.host for one in found}):
        lines.append(f"Not gone through yet: {missing} of {len(HOSTS)} hosts.")
    if methods := untried(found):
        lines.append(f"Not gone through yet on all of these hosts, `?` above: {', '.join(methods)}.")
    return lines


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
