"""``extra=``: which existing parameters, and that they are trained, stored, counted once and given back."""

import copy

import pytest
import torch
from support.hosts import again, inputs, loss, perturb, tokens, trained

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.report import parameter_report

VIT, SWIN = "timm.VisionTransformer", "timm.SwinTransformer"


def attached(host, **cfg):
    model = again(host, torch.float64)
    vpeft.attach(model, {"type": "LoRA", **cfg})
    return model, get_adaptation(model)


def base_keys(model):
    return {key for key in trained(model) if "peft" not in key.split(".") and not key.startswith("head.")}


def test_trained_moved_stored_and_given_back(tmp_path):
    plain = again(SWIN, torch.float64)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    model, adaptation = attached(SWIN, extra=["norm", "table"])
    own = base_keys(model)
    assert own == set(adaptation.trained) == {k for k in before if "norm" in k or "relative_position_bias_table" in k}
    numbers = sum(before[key].numel() for key in own)
    assert adaptation.count() == 2 * 2 * 8 * (64 + 64 + 128 + 128) + numbers
    report = parameter_report(model)
    assert report.trainable_without_head == adaptation.count()
    assert {role for role, _, _ in report.existing} == {"norm_weight", "norm_bias", "rel_pos_bias"}

    x = inputs(SWIN, 2, torch.float64)
    perturb(model)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    loss(tokens(model, x)).backward()
    optimiser.step()
    now = model.state_dict()
    assert {key for key in own if torch.equal(now[key], before[key])} == set()
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    with torch.no_grad():
        out = tokens(model, x)
        assert torch.equal(tokens(vpeft.load_adapter(plain, tmp_path / "a.safetensors"), x), out)
        vpeft.merge(model)
        torch.testing.assert_close(tokens(model, x), out, rtol=1e-9, atol=1e-9)
        vpeft.unmerge(model)
    vpeft.detach(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items() if "head" not in key)


@pytest.mark.parametrize(
    ("extra", "keys"),
    [
        ("norm", {"blocks.2.norm1", "blocks.2.norm2", "norm"}),
        ("bias", {"blocks.2.attn.qkv", "blocks.2.attn.proj", "blocks.2.mlp.fc1", "blocks.2.mlp.fc2"}),
    ],
)
def test_roles_are_those_of_the_chosen_blocks(extra, keys):
    model, _ = attached(VIT, extra=[extra], blocks=1)
    parts = {key.rpartition(".")[0] for key in base_keys(model)}
    assert parts == (keys if extra == "norm" else keys | {"blocks.2.norm1", "blocks.2.norm2", "norm"})


def test_places_are_where_they_are():
    for names, keys in {
        ("head-norm",): {"norm.weight", "norm.bias"},
        ("patch-embed",): {"patch_embed.proj.weight", "patch_embed.proj.bias"},
        ("pos-embed", "cls-token"): {"pos_embed", "cls_token"},
    }.items():
        model, _ = attached(VIT, extra=names)
        assert base_keys(model) == keys
    assert base_keys(attached(VIT, extra=["head-norm"], blocks=[0])[0]) == {"norm.weight", "norm.bias"}


def test_what_the_method_trains_itself_counts_once():
    model = again(VIT, torch.float64)
    vpeft.attach(model, {"type": "BitFit", "extra": ["bias", "norm"]})
    alone = copy.deepcopy(again(VIT, torch.float64))
    vpeft.attach(alone, "BitFit")
    weights = sum(p.numel() for key, p in trained(model).items() if "norm" in key and key.endswith("weight"))
    assert weights == 7 * 64
    assert get_adaptation(model).count() == get_adaptation(alone).count() + weights


def test_a_linear_probe_with_its_norm():
    model = again(VIT, torch.float64)
    vpeft.attach(model, {"type": "Linear", "extra": ["head-norm"]})
    assert base_keys(model) == {"norm.weight", "norm.bias"}
    assert get_adaptation(model).count() == 128


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["norms"], r"LoRA: extra=\['norms'\]: did you mean 'norm'"),
        (["scale"], r"LoRA: extra='scale': this timm.VisionTransformer host has none; it has norm, bias, "),
        (["norm", "norm"], r"LoRA: extra=\['norm', 'norm'\] names one twice\."),
        ("norm", r"LoRA: extra='norm' must be a list, each of it a text\."),
    ],
)
def test_what_is_no_extra(extra, said):
    with pytest.raises(vpeft.UserError, match=f"^{said}"):
        attached(VIT, extra=extra)


def test_on_a_host_without_blocks():
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    vpeft.attach(network, {"type": "LoRA", "rank": 2, "extra": ["norm"]}, sample=torch.zeros(1, 4))
    assert base_keys(network) == {"1.weight", "1.bias"}
