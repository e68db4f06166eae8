"""Which of timm's transformer-like names do hosts read, and why not the others?

    python benchmarks/hosts/timm_names.py                     # all, on the meta device: about half an hour
    python benchmarks/hosts/timm_names.py --modules eva volo  # these modules alone, the others as they were

A name is accepted where LoRA, AdaptFormer, BitFit, SSF, Mona and VPTDeep attach, and has no prompts where VPTDeep alone
does not. What is found goes, module by module, into ``vpeft/apis/pages/timm_names.csv``;
``tools/methods_page.py`` shows it in docs/hosts_by_library.md.
"""

from __future__ import annotations

import argparse
import logging
import re
import time
import warnings
from collections import defaultdict

import vpeft  # isort: skip  mends torchvision

import timm
import torch
from timm.models import _registry
from torch import nn

from vpeft.apis.pages.names import NamesRow, write_names
from vpeft.core.backbones.find import hosts_in
from vpeft.errors import one_line

METHODS = ("LoRA", {"type": "AdaptFormer", "bottleneck": 8}, "BitFit", "SSF", "Mona")
PROMPTS = "VPTDeep"
MODULES = [
    "beit",
    "cait",
    "coat",
    "convit",
    "convmixer",
    "convnext",
    "crossvit",
    "csatv2",
    "davit",
    "deepseek_vit",
    "deit",
    "edgenext",
    "efficientformer",
    "efficientformer_v2",
    "efficientvim",
    "efficientvit_mit",
    "efficientvit_msra",
    "eva",
    "fastvit",
    "focalnet",
    "gcvit",
    "gemma4_vit",
    "hiera",
    "hieradet_sam2",
    "iformer",
    "inception_next",
    "levit",
    "lowformer",
    "mambaout",
    "maxxvit",
    "metaformer",
    "mlp_mixer",
    "mobilenetv5",
    "mobilevit",
    "mvitv2",
    "naflexvit",
    "nest",
    "nextvit",
    "pit",
    "pvt_v2",
    "qwen3_vit",
    "repvit",
    "sequencer",
    "shvit",
    "swiftformer",
    "swin_transformer",
    "swin_transformer_v2",
    "swin_transformer_v2_cr",
    "tiny_vit",
    "tnt",
    "twins",
    "visformer",
    "vision_transformer",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "vision_transformer_sam",
    "vitamin",
    "volo",
    "xcit",
]


def built(name: str) -> nn.Module:
    """A network on the meta device, or on the CPU where its constructor computes."""
    try:
        with torch.device("meta"):
            return timm.create_model(name, num_classes=5)
    except Exception:
        return timm.create_model(name, num_classes=5)


def answer(model: nn.Module) -> tuple[str, str]:
    """``accepted``, ``no prompts`` or ``refused``, and why."""
    for method in (*METHODS, PROMPTS):
        try:
            if not hosts_in(model):
                return "refused", "no host reads it"
            vpeft.attach(model, method)
        except vpeft.UserError as error:
            # One reason for all names: places and numbers differ from one to the next.
            words = re.sub(r"\d+(?:[.,]\s?\d+)*", "N", one_line(error))
            return "no prompts" if method == PROMPTS else "refused", words
        vpeft.detach(model)
    return "accepted", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--modules", nargs="+", default=MODULES, choices=MODULES, metavar="MODULE")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    every: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        every[_registry._model_to_module[name]].append(name)
    count, read, start = 0, 0, time.time()
    for module in args.modules:
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in every[module]:
            found[answer(built(name))].append(name)
        rows = [
            NamesRow(module, result, reason, len(names), " ".join(names) if result == "refused" else "")
            for (result, reason), names in found.items()
        ]
        write_names(module, rows)
        taken = sum(row.count for row in rows if row.result != "refused")
        count, read = count + len(every[module]), read + taken
        print(f"{module}: {taken} of {len(every[module])}", flush=True)
    print(f"{read} of {count} names, {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
