"""Every method's dropout acts in training, and in training alone."""

import dataclasses

import pytest
import torch
from support.hosts import build, inputs, perturb, tokens
from torch import nn

import vpeft
from vpeft.registry import PEFT_METHODS

HOST = "mmpretrain.VisionTransformer"
#: What these need beside the rate.
NEED = {"NOAH": {"prompts": 2, "ranks": 2, "widths": 2}}
#: Random in training beside dropout: DropPath of their own, noise of a choice, masks, dropped experts.
RANDOM = {"Adapter+", "DyT", "MLAE", "SNELL"}
#: Nothing that drops is placed before they have looked at data (test_spt.py).
AFTER_SELECTION = {"SPT-Adapter", "SPT-LoRA"}


def methods(field):
    every = sorted(PEFT_METHODS.module_dict.items())
    return [
        name
        for name, cls in every
        if field in {f.name for f in dataclasses.fields(cls)} and name not in AFTER_SELECTION
    ]


def outputs(method, **settings):
    """Of two passes in train mode and two in eval mode, nothing of the base being random."""
    model = build(HOST)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
    model = perturb(vpeft.attach(model, {"type": method, **NEED.get(method, {}), **settings}))
    images, found = inputs(HOST, dtype=torch.float64, seed=1), {}
    with torch.no_grad():
        for mode in (True, False):
            model.train(mode)
            found[mode] = [tokens(model, images, seed) for seed in range(2)]
    return found


@pytest.mark.parametrize("method", methods("drop"))
def test_dropout_acts_in_training_alone(method):
    dropped, plain = outputs(method, drop=0.5), outputs(method, drop=0.0)
    assert not torch.equal(*dropped[True])
    assert torch.equal(*dropped[False])
    assert torch.equal(*plain[False])
    assert method in RANDOM or torch.equal(*plain[True])


def test_dropout_of_a_convolution():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    model = perturb(vpeft.attach(network, {"type": "LoRA", "rank": 2, "drop": 0.5}))
    images = torch.randn(2, 3, 12, 12, dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        assert not torch.equal(model.train()(images), model(images))
        assert torch.equal(model.eval()(images), model(images))
