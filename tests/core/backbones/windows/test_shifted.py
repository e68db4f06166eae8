"""Windows of maps, and the hosts that attend in them."""

import copy

import pytest
import torch
from support.hosts import build, inputs, loss, perturb, tokens, trained

import vpeft
from vpeft.core.backbones.find import find_host
from vpeft.core.backbones.windows.shifted import APART, pad_bias, shift_mask


def test_a_shift_that_brings_strangers_together_is_masked():
    cpu = torch.device("cpu")
    mask = shift_mask((4, 4), (2, 2), (1, 1), cpu)
    assert mask.shape == (4, 4, 4)
    assert not mask[0].any()
    assert torch.equal(mask[3] == 0, torch.eye(4, dtype=torch.bool))  # four corners of the map
    assert mask.unique().tolist() == [APART, 0.0]
    rows = shift_mask((4, 4), (2, 2), (1, 0), cpu)
    assert torch.equal(rows[2], rows[3])
    assert torch.equal(rows[2][0], torch.tensor([0.0, 0.0, APART, APART]))


def test_a_bias_is_padded_and_never_cut():
    assert pad_bias(torch.ones(2, 3, 3), 4, 5).sum() == 18
    with pytest.raises(vpeft.UserError, match="a window of 2 tokens has positions for 3"):
        pad_bias(torch.ones(3, 3), 2, 2)


@pytest.mark.parametrize("host", ["transformers.SwinModel", "transformers.Swinv2Model"])
def test_transformers_checkpoints_whole_stages(host):
    """A stage that runs again may begin with a block that has no graph."""
    model = build(host, drop_path_rate=0.0)
    vpeft.attach(model, {"type": "PartialK", "k": 1})
    perturb(model).train()
    loss(tokens(model, inputs(host, dtype=torch.float64))).backward()
    grads = {key: param.grad.clone() for key, param in trained(model).items()}
    model.zero_grad()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss(tokens(model, inputs(host, dtype=torch.float64))).backward()
    for key, param in trained(model).items():
        torch.testing.assert_close(param.grad, grads[key], rtol=1e-9, atol=1e-9)


def test_attention_weights_are_given_out_and_head_masks_refused():
    model = build("transformers.SwinModel")
    x = inputs("transformers.SwinModel", dtype=torch.float64)
    plain = copy.deepcopy(model)(x, output_attentions=True).attentions
    vpeft.attach(model, {"type": "VPTDeep", "prompt_length": 3})
    given = model(x, output_attentions=True).attentions
    assert [a.shape[-1] + 3 for a in plain] == [a.shape[-1] for a in given]
    assert torch.allclose(given[0].sum(-1), torch.ones_like(given[0][..., 0]))
    with pytest.raises(vpeft.UserError, match="head_mask"):
        model(x, head_mask=torch.ones(2, 2))


@pytest.mark.parametrize("host", ["transformers.SwinBackbone", "transformers.MaskFormerSwinBackbone"])
def test_blocks_that_lead_nowhere_are_refused(host):
    with pytest.raises(vpeft.UserError, match=r"leaves out the last stage.*add 'stage2'"):
        find_host(build(host, out_features=["stage1"]))


def test_norms_that_lead_nowhere_are_not_trained():
    model = build("transformers.MaskFormerSwinBackbone", out_features=["stage2"])
    roles = {p.name: p.role for p in find_host(model).parameters()}
    assert roles["model.layernorm.weight"] == roles["hidden_states_norms.0.bias"] == "unused"
    assert roles["hidden_states_norms.1.bias"] == "norm_bias"
    vpeft.attach(model, "LNTune")
    assert "hidden_states_norms.1.weight" in trained(model)
    assert "model.layernorm.weight" not in trained(model)


def test_keys_of_torchvision_keep_their_zero_bias_through_a_merge():
    model = build("torchvision.SwinTransformer", version=2)
    x = inputs("torchvision.SwinTransformer", dtype=torch.float64)
    vpeft.attach(model, "SSF")
    perturb(model)
    with pytest.raises(vpeft.UserError, match="no bias to merge a shift into"):
        vpeft.merge(model)
    vpeft.detach(model)
    vpeft.attach(model, {"type": "LoRA", "rank": 2})
    out = tokens(perturb(model), x)
    vpeft.merge(model)
    torch.testing.assert_close(tokens(model, x), out, rtol=1e-10, atol=1e-10)
