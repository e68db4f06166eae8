"""ConvNeXt: blocks without attention, on maps."""

import copy
from dataclasses import dataclass

import pytest
import torch
from support.hosts import build, inputs, loss, perturb, tokens
from torch import nn

import vpeft
from vpeft.algorithms import Method
from vpeft.core.backbones.find import find_host
from vpeft.registry import PEFT_METHODS

HOSTS = ["timm.ConvNeXt", "mmpretrain.ConvNeXt", "torchvision.ConvNeXt", "transformers.ConvNextModel"]


@pytest.mark.parametrize("host", HOSTS)
def test_what_a_block_is(host):
    for block in find_host(build(host)).blocks:
        assert block.units == ("mlp",)
        assert (block.heads, block.takes_tokens) == (0, False)
        assert list(block.sites)[:5] == ["dwconv", "norm2", "fc1", "act", "fc2"]
        assert block.hidden == 4 * block.dim


def test_prompts_and_prefixes_are_refused():
    for method in ("VPTDeep", "PrefixTuning"):
        with pytest.raises(vpeft.UserError, match=r"timm\.ConvNeXt.*Adapters, LoRA and SSF attach there"):
            vpeft.attach(build("timm.ConvNeXt"), method)


@pytest.mark.parametrize("version", [1, 2])
def test_a_norm_over_the_map_runs_on_all_tokens(version):
    (block, *_) = find_host(build("timm.ConvNeXt", use_grn=version == 2)).blocks
    assert ("around" in block.sites["mlp_branch"].allowed) == (version == 1)


@pytest.mark.parametrize("variant", [{}, {"conv_mlp": True}, {"conv_mlp": True, "use_grn": True}])
@pytest.mark.parametrize("method", [{"type": "LoRA", "targets": ["fc1", "fc2"]}, "SSF", "RepAdapter", "GPS", "DiffFit"])
def test_linears_and_convolutions_alike_merge(variant, method):
    model = build("timm.ConvNeXt", **variant)
    vpeft.attach(model, method)
    perturb(model).eval()
    images = inputs("timm.ConvNeXt", dtype=torch.float64)
    before = tokens(model, images)
    vpeft.merge(model)
    assert torch.allclose(tokens(model, images), before, rtol=1e-9, atol=1e-9)


class Contiguous(nn.Module):
    """A weight for each channel of the output, and an output with the channels last in memory."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x, flow):
        raise AssertionError("add_to is there")

    def add_to(self, y, x, flow):
        return (y + y * self.weight).contiguous()


@dataclass(kw_only=True)
class Strange(Method):
    """``Contiguous`` at fc1."""

    def build(self, host):
        for block in host.blocks:
            block.place("fc1", "parallel", Contiguous(block.hidden), "scale")

    def count(self, host):
        return sum(block.hidden for block in host.blocks)


@pytest.mark.parametrize("method", ["LoRA", "PiSSA", "DoRA", "LoHa", Strange()])
def test_what_is_added_to_a_map_lies_in_memory_as_the_map_did(method, monkeypatch):
    """A norm over the map rounds its sum in the order of its memory: with another, the start is not the host's bits."""
    monkeypatch.setattr(PEFT_METHODS, "_module_dict", {**PEFT_METHODS.module_dict, "Strange": Strange})
    plain = build("mmpretrain.ConvNeXt", linear_pw_conv=False, use_grn=True)
    model = copy.deepcopy(plain)
    vpeft.attach(model, method)
    strides = []
    for one in (plain, model):
        convolution = one.stages[0][0].pointwise_conv1
        convolution.register_forward_hook(lambda module, args, out: strides.append(out.stride()))
    images = inputs("mmpretrain.ConvNeXt", dtype=torch.float64)
    with torch.no_grad():
        expected, got = tokens(plain, images), tokens(model, images)
    assert strides[0] == strides[1]
    assert torch.equal(got, expected)


def test_mmpretrain_checkpointing_gives_the_same_gradients():
    # Not bit by bit: with another layout of the gradient its sum over the map is rounded in another order.
    plain = vpeft.attach(build("mmpretrain.ConvNeXt"), "SSF")
    other = copy.deepcopy(plain)
    for block in find_host(other).blocks:
        block.module.with_cp = True
    images = inputs("mmpretrain.ConvNeXt", dtype=torch.float64)
    for model in (plain, other):
        loss(tokens(model, images)).backward()
    for (key, a), (_, b) in zip(plain.named_parameters(), other.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        assert a.grad is None or torch.allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12), key


def test_a_method_that_is_not_registered_is_named():
    with pytest.raises(vpeft.UserError, match=r"^Strange is not registered: put @PEFT_METHODS.register_module\(\)"):
        vpeft.attach(build("timm.ConvNeXt"), Strange())
