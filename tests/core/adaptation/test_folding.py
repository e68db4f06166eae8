"""Merging: every target, every scale on the way, and refusals that leave the weights alone."""

import copy

import pytest
import torch
from support.design import in_turn
from support.hosts import TINY, build, perturb, tokens
from support.refusals import attached, load_merged, merged

import vpeft

TARGETS = [["q"], ["k"], ["v"], ["proj"], ["fc1"], ["fc2"], ["qkv"]]
VARIANTS = [(host, {}) for host in sorted(TINY)] + [
    ("mmpretrain.VisionTransformer", {"layer_scale_init_value": 0.1}),
    ("mmpretrain.VisionTransformer", {"qkv_bias": False}),
    ("timm.VisionTransformer", {"init_values": 0.1}),
    ("timm.VisionTransformer", {"qkv_bias": False}),
]


def check_merge(host, options, cfg, images) -> None:
    plain = build(host, **options)
    model = perturb(attached(host, plain, cfg))
    out, base = tokens(model, images), tokens(plain, images)
    assert not torch.allclose(out, base, rtol=1e-3)
    assert merged(model) == []
    torch.testing.assert_close(tokens(model, images), out, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tokens(load_merged(plain, model), images), out, rtol=1e-9, atol=1e-9)
    vpeft.unmerge(model)
    assert torch.equal(tokens(model, images), out)


@pytest.mark.parametrize(("host", "options"), VARIANTS, ids=str)
def test_lora_on_every_linear(host, options, images):
    targets = ["q", "k", "v", "proj", "fc1", "fc2"]
    check_merge(host, options, {"type": "LoRA", "rank": 3, "alpha": 5, "targets": targets}, images)


@pytest.mark.parametrize(("host", "options", "targets"), in_turn(VARIANTS, TARGETS), ids=str)
def test_lora(host, options, targets, images):
    check_merge(host, options, {"type": "LoRA", "rank": 3, "alpha": 5, "targets": targets}, images)


@pytest.mark.parametrize(("host", "options"), [v for v in VARIANTS if "qkv_bias" not in v[1]], ids=str)
def test_ssf(host, options, images):
    check_merge(host, options, "SSF", images)


@pytest.mark.parametrize(("host", "options"), [v for v in VARIANTS if "qkv_bias" in v[1]], ids=str)
def test_a_shift_without_a_bias_to_go_into_is_refused(host, options, images):
    model = vpeft.attach(build(host, **options), "SSF")
    perturb(model)
    out, state = tokens(model, images), copy.deepcopy(model.state_dict())
    with pytest.raises(vpeft.UserError, match="shifts the output of site 'qkv', whose module has no bias"):
        vpeft.merge(model)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(tokens(model, images), out)


def test_not_a_number_is_never_written():
    model = vpeft.attach(build("timm.VisionTransformer"), "LoRA")
    perturb(model)
    key = next(k for k in model.state_dict() if ".peft.lora." in k)
    with torch.no_grad():
        model.get_parameter(key)[0, 0] = float("nan")
    plain = {k: v.clone() for k, v in vpeft.plain_state_dict(model).items()}
    with pytest.raises(vpeft.UserError, match=r"merging would write NaN or infinity to blocks\.0\.attn\.qkv\.weight"):
        vpeft.merge(model)
    assert all(torch.equal(v, plain[k]) for k, v in vpeft.plain_state_dict(model).items())
