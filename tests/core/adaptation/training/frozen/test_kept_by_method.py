"""What is kept for which method, as docs/running.md says it."""

from pathlib import Path

import timm
import torch

import vpeft
from vpeft import UserError
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.training.frozen.frozen_features import ENTERS, FrozenFeatures
from vpeft.core.store import Store
from vpeft.registry import PEFT_METHODS

PAGE = Path(__file__).parents[5] / "docs/running.md"
HEAD = "| method | blocks not run | kept of an image |"


def counted(count, what):
    return f"{'its' if count == 1 else count} {what}{'' if count == 1 else 's'}" if count else None


def kept_for(method, store):
    """Blocks that are not run again of a ViT of twelve, and what is kept in words; None where nothing is."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=64, num_heads=4, num_classes=0)
    try:
        vpeft.attach(model, method)
    except UserError:  # it is for other backbones
        return None
    features = FrozenFeatures(get_adaptation(model), store, lambda line: None)
    features.start()
    model.train()
    model(torch.randn(2, 3, 32, 32))
    features.stop()
    if not features.depth:
        return None
    if features._whole:
        return features.depth, "the backbone's output"
    names = features._names
    parts = [
        "what enters the first block" if ENTERS in names else None,
        counted(sum(name.startswith("block") for name in names), "block output"),
        counted(sum("branch" in name for name in names), "branch output"),
    ]
    assert sum(name.startswith("block") or "branch" in name or name == ENTERS for name in names) == len(names)
    return features.depth, ", ".join(part.replace("its ", "one ") for part in parts if part)


def test_the_page_says_what_is_kept_for_every_method(tmp_path):
    store = Store(tmp_path, "50MB")
    found = {name: kept_for(name, store) for name in sorted(PEFT_METHODS.module_dict)}
    rows = {}
    for name, kept in found.items():
        if kept:
            rows.setdefault(kept, []).append(name)
    table = [
        f"| {', '.join(names)} | {depth} | {kept} |" for (depth, kept), names in sorted(rows.items(), reverse=True)
    ]
    lines = PAGE.read_text().splitlines()
    assert HEAD in lines, "\n".join(table)
    first = lines.index(HEAD) + 2
    assert lines[first : first + len(table) + 1] == [*table, ""]


def test_methods_into_whose_base_no_gradient_flows_are_the_ones_that_gain():
    """Or the page says why not."""
    said = PAGE.read_text()
    for name, method in PEFT_METHODS.module_dict.items():
        if method.memory.startswith(("M0", "M1")):
            assert name in said, name
