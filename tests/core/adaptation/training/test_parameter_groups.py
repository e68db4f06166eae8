"""Parameter groups."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmpretrain.models import ImageClassifier

import vpeft  # noqa: F401
from vpeft.errors import UserError


def wrapper(method, **paramwise):
    arch = {"embed_dims": 64, "num_layers": 2, "num_heads": 4, "feedforward_channels": 128}
    backbone = {"type": "vpeft.PEFT", "of": "mmpretrain.VisionTransformer", "method": method, "arch": arch}
    head = {"type": "mmpretrain.LinearClsHead", "num_classes": 3, "in_channels": 64}
    model = ImageClassifier(backbone={**backbone, "img_size": 32, "patch_size": 16}, head=head)
    cfg = {
        "type": "OptimWrapper",
        "constructor": "vpeft.PEFTOptimWrapperConstructor",
        "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1},
    }
    if paramwise:
        cfg["paramwise_cfg"] = paramwise
    return model, build_optim_wrapper(model, cfg)


def decay_by_name(model, optim):
    decay = {id(p): g["weight_decay"] for g in optim.optimizer.param_groups for p in g["params"]}
    return {name: decay.get(id(p)) for name, p in model.named_parameters()}


def test_only_what_is_trained_is_optimised():
    model, optim = wrapper({"type": "LoRA", "rank": 4})
    decay = decay_by_name(model, optim)
    assert all(
        (value is None) == (not dict(model.named_parameters())[name].requires_grad) for name, value in decay.items()
    )
    assert decay["backbone.layers.0.peft.lora.qkv.down.q"] == 0.1
    assert decay["head.fc.weight"] == 0.1
    assert decay["head.fc.bias"] == 0.0
    assert len(optim.optimizer.param_groups) == 2


def test_factors_that_modules_ask_for():
    """LoRA+: B learns 16 times as fast as A, and as the whole backbone where that is slowed down."""
    for paramwise, factor in (({}, 1.0), ({"backbone_lr_mult": 0.1}, 0.1)):
        model, optim = wrapper({"type": "LoRA+", "rank": 4}, **paramwise)
        rates = {id(p): g["lr"] for g in optim.optimizer.param_groups for p in g["params"]}
        pairs = model.backbone.layers[1].peft["lora_"].qkv
        assert rates[id(pairs.down["q"])] == 1e-3 * factor
        assert rates[id(pairs.up["v"])] == 1e-3 * (16 * factor)
        assert rates[id(model.head.fc.weight)] == 1e-3


def test_no_decay_on_biases_norms_scales_tables():
    for method, names in {
        "SSF": ["layers.0.peft.ssf.qkv.gamma", "layers.0.peft.ssf.qkv.beta"],
        "PrefixTuning": ["layers.0.peft.prefixtuning.prefix.key", "layers.0.peft.prefixtuning.prefix.value"],
        "LNTune": ["layers.0.ln1.weight", "ln1.bias"],
        "BitFit": ["layers.0.attn.qkv.bias"],
        "Full": ["pos_embed", "cls_token", "layers.0.ln2.weight", "patch_embed.projection.bias"],
    }.items():
        model, optim = wrapper(method)
        decay = decay_by_name(model, optim)
        assert {decay[f"backbone.{name}"] for name in names} == {0.0}, method
    assert decay["backbone.layers.0.attn.qkv.weight"] == 0.1
    model, optim = wrapper("VPTDeep")  # the authors' prompts decay
    assert decay_by_name(model, optim)["backbone.layers.1.peft.vptdeep.prompts.weight"] == 0.1


def test_rule_of_dense_recipes_leaves_norms_and_tables_alone():
    model, optim = wrapper("Mona", undecayed="norms")
    decay = {k.removeprefix("backbone."): v for k, v in decay_by_name(model, optim).items() if v is not None}
    mona = "layers.0.peft.mona.attn."
    assert {decay[mona + name] for name in ("gamma1", "gamma2", "down.bias", "up.weight")} == {0.1}
    assert {decay[mona + name] for name in ("norm.weight", "norm.bias")} == {0.0}
    model, optim = wrapper("Full", undecayed="norms")
    decay = decay_by_name(model, optim)
    assert {decay[f"backbone.{name}"] for name in ("pos_embed", "cls_token", "layers.0.ln2.weight", "ln1.bias")} == {
        0.0
    }
    assert decay["backbone.layers.0.attn.qkv.bias"] == 0.1
    with pytest.raises(UserError, match="undecayed='norm' must be one of 'vectors', 'norms'"):
        wrapper("Mona", undecayed="norm")


def test_paramwise_settings_go_first():
    model, optim = wrapper("BitFit", custom_keys={"head": {"lr_mult": 10.0}})
    rates = {id(p): g["lr"] for g in optim.optimizer.param_groups for p in g["params"]}
    assert rates[id(model.head.fc.weight)] == 1e-2
    assert rates[id(model.backbone.layers[0].attn.qkv.bias)] == 1e-3
    assert torch.is_tensor(model.head.fc.weight)


def test_a_rate_of_its_own_for_the_backbone():
    model, optim = wrapper("BitFit", backbone_lr_mult=0.1)
    rates = {id(p): g["lr"] for g in optim.optimizer.param_groups for p in g["params"]}
    assert rates[id(model.head.fc.weight)] == 1e-3
    assert rates[id(model.head.fc.bias)] == 1e-3
    assert rates[id(model.backbone.layers[0].attn.qkv.bias)] == 1e-4
    assert rates.keys() == {id(p) for p in model.parameters() if p.requires_grad}
