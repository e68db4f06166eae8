"""One check of identity: what was replaced, wrapped, quantised, tied, freed or frozen since attaching is refused."""

import copy
import warnings

import peft
import pytest
import torch
from support.hosts import TINY, build, perturb, tokens
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

import vpeft
from vpeft.core.adaptation.find import find_adaptation, get_adaptation
from vpeft.core.contract.method import Method

TIMM, VIT = "timm.VisionTransformer", "mmpretrain.VisionTransformer"
LORA = {"type": "LoRA", "rank": 4}
hosts = pytest.mark.parametrize("host", sorted(TINY))


def refused(act, *messages):
    with pytest.raises(vpeft.UserError) as error:
        act()
    text = str(error.value)
    assert "\n" not in text
    for message in messages:
        assert message in text


@hosts
@pytest.mark.parametrize("cfg", ["SSF", "Full", ["BitFit", "AdaptFormer"]])
def test_an_untouched_model_passes(host, cfg, images):
    model = vpeft.attach(build(host), cfg)
    adaptation = find_adaptation(model)
    adaptation.check()
    tokens(perturb(model).train(), images).sum().backward()
    model.eval()
    adaptation.check()
    find_adaptation(copy.deepcopy(model)).check()


def quantise(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)


def replace(model):
    model.blocks[1].mlp.fc1 = copy.deepcopy(model.blocks[1].mlp.fc1)


def tie_modules(model):
    model.blocks[1].attn.qkv = model.blocks[0].attn.qkv


def tie_parameters(model):
    model.blocks[1].attn.qkv.weight = model.blocks[0].attn.qkv.weight


def add_block(model):
    model.blocks.append(copy.deepcopy(build(TIMM, depth=1).blocks[0]))


def placed_module(model):
    down = model.blocks[0].peft["lora"]
    down["qkv"] = copy.deepcopy(down["qkv"])


def integers(model):
    fc1 = model.blocks[0].mlp.fc1
    fc1.weight = nn.Parameter(fc1.weight.detach().to(torch.int8), requires_grad=False)


CHANGES = {
    "quantised": (quantise, "blocks.0.attn.qkv was replaced (by a torch.ao.nn.quantized.dynamic"),
    "integers": (integers, "blocks.0.mlp.fc1.weight holds int8: quantised weights cannot be adapted"),
    "replaced": (replace, "blocks.1.mlp.fc1 was replaced (by a torch.nn.modules.linear.Linear)"),
    "pruned": (lambda m: prune.l1_unstructured(m.blocks[0].mlp.fc2, "weight", 0.5), "blocks.0.mlp.fc2 holds", "_orig"),
    "weight norm": (
        lambda m: weight_norm(m.blocks[2].attn.proj),
        "blocks.2.attn.proj holds the parameters",
        "weight_g",
    ),
    "parametrised": (lambda m: parametrizations.weight_norm(m.blocks[0].attn.qkv), "blocks.0.attn.qkv", "Parametrized"),
    "tied modules": (tie_modules, "blocks.1.attn.qkv is gone"),
    "tied parameters": (tie_parameters, "blocks.0.attn.qkv.weight and blocks.1.attn.qkv.weight", "one parameter"),
    "a block more": (add_block, "blocks.3 was added"),
    "a block less": (lambda m: m.blocks.__delitem__(2), "blocks.2 is gone"),
    "a placed module": (placed_module, "what lora placed at qkv is no longer among the backbone's modules"),
    "another library": (
        lambda m: peft.get_peft_model(m, peft.LoraConfig(target_modules=["fc1"])),
        "blocks.0.mlp.fc1 was replaced (by a peft.tuners",
    ),
    "freed": (lambda m: m.norm.requires_grad_(True), "norm.weight, norm.bias", "freed by hand", "freeze it again"),
    "frozen stages": (lambda m: setattr(m, "frozen_stages", 1), "frozen_stages=1", "leave it at its default"),
}


@pytest.mark.parametrize(("change", "messages"), [(c, m) for c, *m in CHANGES.values()], ids=CHANGES)
def test_what_changed_since_attaching_is_refused(change, messages, tmp_path):
    model = perturb(vpeft.attach(build(TIMM), LORA))
    path = vpeft.save_adapter(model, tmp_path / "before")
    change(model)
    for act in (
        find_adaptation(model).check,
        lambda: vpeft.save_adapter(model, tmp_path / "after"),
        lambda: vpeft.load_adapter(model, path),
        lambda: vpeft.merge(model),
        lambda: vpeft.learn(model, []),
        lambda: vpeft.disabled(model).__enter__(),
        lambda: vpeft.detach(model),
    ):
        refused(act, *messages)
    assert not (tmp_path / "after").exists()
    vpeft.detach(model, restore=False)  # takes away what is there
    assert get_adaptation(model) is None
    assert not any("peft" in key.split(".") for key in model.state_dict())


def share_a_block(model):
    model.blocks[1] = model.blocks[0]


BEFORE = {
    "quantised": (quantise, "blocks.0.attn.qkv", "take the quantisation, pruning or weight normalisation off first"),
    "integers": (integers, "blocks.0.mlp.fc1.weight holds int8"),
    "pruned": (lambda m: prune.l1_unstructured(m.blocks[0].mlp.fc2, "weight", 0.5), "fc2", "from bias, weight_orig"),
    "weight norm": (lambda m: weight_norm(m.blocks[2].attn.proj), "blocks.2.attn.proj", "weight_g, weight_v"),
    "a block used twice": (share_a_block, "blocks.0 is used at several places of this VisionTransformer"),
    "tied modules": (tie_modules, "blocks.0.attn.qkv is used at several places"),
    "tied parameters": (tie_parameters, "blocks.0.attn.qkv.weight and blocks.1.attn.qkv.weight", "one parameter"),
}


@pytest.mark.parametrize(("change", "messages"), [(c, m) for c, *m in BEFORE.values()], ids=BEFORE)
def test_what_cannot_be_adapted_is_refused_at_attaching(change, messages):
    model = build(TIMM)
    change(model)
    flags = [p.requires_grad for p in model.parameters()]
    refused(lambda: vpeft.attach(model, LORA), *messages)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert get_adaptation(model) is None


@pytest.mark.parametrize("host", ["mmpretrain.SwinTransformer", "mmseg.SwinTransformer", "mmdet.SwinTransformer", VIT])
@pytest.mark.parametrize("cfg", ["LoRA", "Full", "Linear"])
def test_frozen_stages_are_refused_under_every_method(host, cfg):
    refused(lambda: vpeft.attach(build(host, frozen_stages=1), cfg), "frozen_stages=1", "leave it at its default, -1")
    vpeft.attach(build(host, frozen_stages=-1), cfg)


def test_precision_and_device_calls_and_assigned_weights_are_followed(images):
    model = perturb(vpeft.attach(build(TIMM), LORA))
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    for name, param in model.named_parameters():  # an assigned tensor brings its own flag along
        param.requires_grad_("peft" in name or "head" in name)
    find_adaptation(model.float().double()).check()
    truth = tokens(model, images)
    assert vpeft.merge(model) == []
    torch.testing.assert_close(tokens(model, images), truth)


@pytest.mark.parametrize("host", ["timm.VisionTransformer", "timm.SwinTransformer"])
@pytest.mark.parametrize("cfg", ["LoRA", "SSF", "VPTShallow"])
def test_another_input_size_after_attaching_is_followed(host, cfg):
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    model, plain = vpeft.attach(build(host), cfg), build(host)
    perturb(model)
    for one in (model, plain):
        one.set_input_size(img_size=(64, 64))
        one.eval()
    tables = [p.shape for p in plain.parameters()]
    with vpeft.disabled(model):
        assert torch.equal(model.forward_features(images), plain.forward_features(images))
    assert not torch.equal(model.forward_features(images), plain.forward_features(images))
    vpeft.detach(model)
    assert [p.shape for p in model.parameters()] == tables
    assert torch.equal(model.forward_features(images), plain.forward_features(images))


@pytest.mark.parametrize("host", ["timm.VisionTransformer", "timm.SwinTransformer"])
def test_a_trained_table_that_was_resized_cannot_be_given_back(host):
    model = vpeft.attach(build(host), "Full")
    model.set_input_size(img_size=(64, 64))
    for act in (lambda: vpeft.disabled(model).__enter__(), lambda: vpeft.detach(model)):
        refused(act, "has the shape", "its own values cannot be given back", "restore=False")
    vpeft.detach(model, restore=False)
    model.forward_features(torch.randn(1, 3, 64, 64, dtype=torch.float64))


@pytest.mark.parametrize("host", ["timm.VisionTransformer", "timm.SwinTransformer"])
def test_another_patch_size_after_attaching_is_refused_at_once(host):
    model = vpeft.attach(build(host), "SSF")
    state = copy.deepcopy(model.state_dict())
    refused(lambda: model.set_input_size(img_size=(32, 32), patch_size=(4, 4)), "patch_size", "before attaching")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    find_adaptation(model).check()
    model.set_input_size(patch_size=tuple(model.patch_embed.patch_size))  # as it is
    model.patch_embed.set_input_size(patch_size=(4, 4))  # beside the backbone's own call
    refused(find_adaptation(model).check, "patch_embed.proj was replaced")


class Small(Method):
    """A method with faults."""

    category, paper, says, names = "adapter", "none", 64, ("one",)

    @classmethod
    def registered_name(cls):
        return "Small"

    def build(self, host):
        for name in self.names:
            host.blocks[0].place("norm1", "after", nn.Linear(64, 1, bias=False), name)

    def count(self, host):
        return self.says


def test_a_count_that_is_not_what_is_trained_is_a_fault_of_the_method():
    class Wrong(Small):
        says = 65

    model = build(TIMM)
    refused(lambda: vpeft.attach(model, Wrong()), "Wrong trains 64 parameters", "its count() says 65", "fault")
    assert not any("peft" in key for key in model.state_dict())
    vpeft.attach(model, Small())


def test_a_name_is_taken_once():
    class Twice(Small):
        names = ("one", "one")

    model = build(TIMM)
    refused(lambda: vpeft.attach(model, Twice()), "small: the name 'one' is taken at block 0")
    assert not any("peft" in key for key in model.state_dict())
