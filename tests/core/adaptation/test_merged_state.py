"""A state dict says whether the adapter is merged, and a merged one is not trained; heads come back."""

import copy

import pytest
import torch
from support.hosts import build, inputs, perturb, tokens

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.errors import UserError

VIT = "timm.VisionTransformer"


def adapted(method="LoRA", host=VIT, seed=7):
    model = perturb(vpeft.attach(build(host, torch.float32), method))
    model.eval()
    return model


@pytest.mark.parametrize("host", [VIT, "mmpretrain.SwinTransformer", "mmseg.VisionTransformer"])
def test_a_merged_state_loads_as_merged(host):
    model, x = adapted(host=host), inputs(host)
    truth = tokens(model, x)
    vpeft.merge(model)
    state, merged = copy.deepcopy(model.state_dict()), tokens(model, x)
    assert any("peft.merged." in key for key in state)
    other = vpeft.attach(build(host, torch.float32), "LoRA")
    other.eval()
    other.load_state_dict(state)
    assert torch.equal(tokens(other, x), merged)
    vpeft.unmerge(other)
    assert torch.equal(tokens(other, x), truth)
    assert not any("peft.merged." in key for key in other.state_dict())


def test_a_state_that_is_not_merged_takes_the_merged_ones_place():
    model, x = adapted(), torch.randn(2, 3, 32, 32)
    truth, state = model(x), copy.deepcopy(model.state_dict())
    vpeft.merge(model)
    model.load_state_dict(state)
    assert torch.equal(model(x), truth)
    assert not get_adaptation(model).merged


def test_a_plain_state_does_not_meet_a_merged_adapter():
    model = adapted()
    vpeft.merge(model)
    with pytest.raises(UserError, match="holds no adapter, and the adapter here is merged"):
        model.load_state_dict(vpeft.plain_state_dict(model))


def test_a_merged_state_of_other_targets_is_refused():
    model = adapted({"type": "LoRA", "targets": ("proj",)})
    vpeft.merge(model)
    with pytest.raises(UserError, match="merged into other weights"):
        adapted().load_state_dict(model.state_dict())


def test_the_plain_state_dict_of_a_merged_model_is_plain():
    model = adapted()
    vpeft.merge(model)
    assert vpeft.plain_state_dict(model).keys() == build(VIT, torch.float32).state_dict().keys()


def test_a_merged_adapter_is_not_trained():
    model, x = adapted(), torch.randn(2, 3, 32, 32)
    vpeft.merge(model)
    model(x).sum().backward()  # looking at gradients is no training
    model.train()
    with torch.no_grad():
        model(x)
    with pytest.raises(UserError, match=r"merged into the weights, where training would not reach it"):
        model(x)
    with pytest.raises(UserError, match=r"unmerge\(model\) before training"):
        get_adaptation(model).check_trained()
    vpeft.unmerge(model)
    model(x)


@pytest.mark.parametrize("method", ["LoRA", "HST", "Full"])
def test_disabled_and_detach_give_the_head_back(method):
    plain, x = build(VIT, torch.float32), torch.randn(2, 3, 32, 32)
    want = plain(x)
    model = perturb(vpeft.attach(copy.deepcopy(plain), method)).eval()
    tuned = model(x)
    with vpeft.disabled(model):
        assert torch.equal(model(x), want)
    assert torch.equal(model(x), tuned)
    vpeft.detach(model)
    assert torch.equal(model(x), want)


def test_a_loaded_adapter_leaves_with_its_head(tmp_path):
    trained, x = adapted(), torch.randn(2, 3, 32, 32)
    vpeft.save_adapter(trained, tmp_path / "adapter.safetensors")
    model = build(VIT, torch.float32)
    want = model(x)
    vpeft.load_adapter(model, tmp_path / "adapter.safetensors")
    assert torch.equal(model(x), trained(x))
    vpeft.detach(model)
    assert torch.equal(model(x), want)


def test_detach_without_restoring_keeps_the_trained_head():
    model, x = adapted(), torch.randn(2, 3, 32, 32)
    vpeft.merge(model)
    want = model(x)
    vpeft.detach(model, restore=False)
    assert torch.equal(model(x), want)
