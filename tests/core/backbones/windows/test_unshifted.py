"""SAM's windows: what the library records, prompts in every window, the neck that stays."""

import copy

import pytest
import torch
from support.hosts import build, inputs, perturb, tokens, trained

import vpeft
from vpeft.core.backbones.find import find_host
from vpeft.extension.attention.record import record_attention

SAM = ["transformers.SamVisionEncoder", "timm.VisionTransformerSAM", "mmpretrain.ViTSAM", "transformers.VitDetModel"]


@pytest.mark.parametrize("copied", ["Sam", "SamHQ", "GotOcr2"])
def test_transformers_still_records_states_and_attention(copied):
    """Gradients of a state that is read on the way come together in another order, and so round differently."""
    plain = build("transformers.SamVisionEncoder", copy=copied, eager=True)
    sited = vpeft.attach(copy.deepcopy(plain), "Full")
    x = inputs("transformers.SamVisionEncoder", dtype=torch.float64)
    given = {}
    for name, model in (("plain", plain), ("sited", sited)):
        out = model(x, output_hidden_states=True, output_attentions=True)
        (sum(state.cos().sum() for state in out.hidden_states) + out.last_hidden_state.sum()).backward()
        given[name] = out
    assert len(given["sited"].attentions) == 3
    for kind in ("hidden_states", "attentions"):
        pairs = zip(given["plain"][kind], given["sited"][kind], strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    grads = dict(plain.named_parameters())
    for key, param in sited.named_parameters():
        torch.testing.assert_close(param.grad, grads[key].grad, rtol=1e-5, atol=1e-5)  # its softmax is in float32


@pytest.mark.parametrize("host", SAM)
def test_prompts_go_through_every_window(host):
    model = build(host)
    vpeft.attach(model, {"type": "VPTDeep", "prompt_length": 3})
    with record_attention(model) as kept:
        model(inputs(host, dtype=torch.float64))
    windowed, whole = kept[0], kept[1]
    assert windowed.weights.shape == (2 * 9, 4, 19, 19)
    assert whole.weights.shape == (2, 4, 103, 103)
    assert (windowed.places == -1).sum() == 12 * 12 - 100
    for attention in kept.values():
        assert torch.allclose(attention.weights.sum(-1), torch.ones_like(attention.weights[..., 0]))


@pytest.mark.parametrize("host", SAM[:3])
def test_the_neck_stays(host):
    model = build(host)
    roles = {p.name: p.role for p in find_host(model).parameters()}
    neck = {name for name, role in roles.items() if role == "neck"}
    assert len(neck) == 6
    vpeft.attach(model, ["BitFit", "LNTune"])
    assert not neck & set(trained(model))


def test_options_that_are_not_stated_are_refused():
    with pytest.raises(vpeft.UserError, match=r"blocks\.0: rotary"):
        find_host(build("timm.VisionTransformerSAM", use_rope=True, use_rel_pos=False))
    with pytest.raises(vpeft.UserError, match="out_indices=\\[0\\] leaves out the last layer"):
        find_host(build("mmpretrain.ViTSAM", out_indices=[0]))
    with pytest.raises(vpeft.UserError, match="residual block of convolutions"):
        find_host(build("transformers.VitDetModel", residual_block_indices=[1]))
    with pytest.raises(vpeft.UserError, match="leaves out the last block"):
        find_host(build("transformers.VitDetModel", out_features=["stage1"]))


def test_a_padded_window_keeps_its_prompts_through_a_merge():
    model = build("timm.VisionTransformerSAM", init_values=0.1)
    x = inputs("timm.VisionTransformerSAM", dtype=torch.float64)
    vpeft.attach(model, [{"type": "VPTDeep", "prompt_length": 2}, {"type": "LoRA", "rank": 2}])
    out = tokens(perturb(model), x)
    vpeft.merge(model)
    torch.testing.assert_close(tokens(model, x), out, rtol=1e-10, atol=1e-10)
