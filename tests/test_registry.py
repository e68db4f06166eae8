"""Registries and the hint for an unknown name."""

import pytest

from vpeft.registry import DATASETS, HOOKS, HOSTS, MODELS, PEFT_METHODS, nearest


@pytest.mark.parametrize(
    ("asked", "found"),
    [("lora", "'LoRA'"), ("Lroa", "'LoRA'"), ("vpt_deep", "'VPTDeep'"), ("AdaptFrmer", "'AdaptFormer'")],
)
def test_nearest_method(asked, found):
    hint = nearest(asked, PEFT_METHODS.module_dict)
    assert hint.startswith(f"did you mean {found}? Known: {min(PEFT_METHODS.module_dict)}, ")


def test_nothing_near():
    assert nearest("zzz", ["b", "a"]) == "Known: a, b."


def test_children_of_mmengine():
    for registry in (MODELS, DATASETS, HOOKS):
        assert registry.scope == "vpeft"
        assert registry.parent.scope == "mmengine"
    assert MODELS.get("vpeft.PEFT") is MODELS.get("PEFT")
    assert {"mmpretrain.VisionTransformer", "timm.SwinTransformer"} <= set(HOSTS.module_dict)
