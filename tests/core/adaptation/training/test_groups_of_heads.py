"""Groups of the optimiser where the head is inside the backbone, and where positions are tables of biases."""

import timm
import torch
from support.hosts import build

import vpeft
from vpeft.core.adaptation.training.parameter_groups import PEFTOptimWrapperConstructor


def groups(model, **paramwise):
    cfg = {"optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1}}
    made = PEFTOptimWrapperConstructor(cfg, paramwise or None)(model)
    return {id(p): group for group in made.optimizer.param_groups for p in group["params"]}


def test_the_backbones_rate_is_not_that_of_a_head_inside_it():
    torch.manual_seed(0)
    plain = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3)
    model = vpeft.attach(plain, {"type": "LoRA", "rank": 2})
    of = groups(model, backbone_lr_mult=0.1)
    assert {of[id(p)]["lr"] for p in model.head.parameters()} == {1e-3}
    assert {of[id(p)]["lr"] for name, p in model.named_parameters() if ".peft." in name} == {1e-4}


def test_tables_of_relative_positions_do_not_decay():
    model = vpeft.attach(build("mmpretrain.SwinTransformer"), "Full")
    of = groups(model)
    tables = [p for name, p in model.named_parameters() if name.endswith("relative_position_bias_table")]
    assert tables
    assert {of[id(table)]["weight_decay"] for table in tables} == {0.0}
    weights = [p for name, p in model.named_parameters() if name.endswith("qkv.weight")]
    assert {of[id(weight)]["weight_decay"] for weight in weights} == {0.1}
