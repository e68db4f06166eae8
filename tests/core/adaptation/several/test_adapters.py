"""Named adapters of one base: switched, loaded, dropped, taken off."""

import copy
import gc
import weakref

import pytest
import torch
from support.hosts import build, inputs, perturb, tokens
from torch import nn

import vpeft
from vpeft.apis.hf_peft import save_peft
from vpeft.core.adaptation.find import find_adaptation

VIT = "timm.VisionTransformer"
METHODS = {
    "low": {"type": "LoRA", "rank": 2},
    "shift": "BitFit",
    "side": {"type": "LST"},
    "prompt": {"type": "VPTDeep", "prompt_length": 3},
    "pets": {"type": "AdaptFormer", "bottleneck": 4},
}


def refused(act, *messages):
    with pytest.raises(vpeft.UserError) as error:
        act()
    for message in messages:
        assert message in str(error.value)


def alone(plain, cfg, seed):
    """A copy of the plain model with one adapter, moved away from its start, its head too."""
    model = vpeft.attach(copy.deepcopy(plain), cfg)
    perturb(model, seed=seed)
    with torch.no_grad():
        for key, param in model.named_parameters():
            if key.startswith("head."):
                param.add_(torch.randn(param.shape, generator=torch.Generator().manual_seed(seed), dtype=param.dtype))
    return model


@pytest.fixture
def plain():
    return build(VIT, num_classes=5)


@pytest.fixture
def x():
    return inputs(VIT, 3, dtype=torch.float64)


@pytest.fixture
def files(plain, x, tmp_path):
    """By name: the file of an adapter, and what its model answers."""
    found = {}
    for seed, (name, cfg) in enumerate(METHODS.items()):
        model = alone(plain, cfg, seed)
        found[name] = vpeft.save_adapter(model, tmp_path / f"{name}.safetensors"), model(x)
    return found


def test_each_answers_as_it_did_alone_bit_for_bit(plain, x, files):
    model, own = copy.deepcopy(plain), plain(x)
    for name, (path, _) in files.items():
        vpeft.load_adapter(model, path, name=name)
    assert vpeft.adapter_names(model) == list(METHODS)
    parameters = dict(plain.named_parameters()).keys()
    for name in [*METHODS, None, *reversed(METHODS), "low", "low", None, "shift"]:
        assert vpeft.use(model, name) is model
        assert torch.equal(model(x), own if name is None else files[name][1])
        assert {
            key for key in dict(model.named_parameters()) if ".peft." not in key and "peft." not in key
        } == parameters
    vpeft.detach(model)
    assert torch.equal(model(x), own)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))
    assert type(model) is type(plain)


def test_what_is_saved_and_merged_is_of_the_one_that_answers(plain, x, files, tmp_path):
    model = copy.deepcopy(plain)
    for name in ("low", "shift"):
        vpeft.load_adapter(model, files[name][0], name=name)
    for name in ("low", "shift"):
        vpeft.use(model, name)
        path = vpeft.save_adapter(model, tmp_path / "again.safetensors")
        assert torch.equal(vpeft.load_adapter(copy.deepcopy(plain), path)(x), files[name][1])
    vpeft.use(model, "low")
    assert vpeft.merge(model) == []
    assert torch.allclose(model(x), files["low"][1])
    refused(lambda: vpeft.use(model, "shift"), "'low' is merged into the weights", "unmerge")
    vpeft.unmerge(model)
    vpeft.use(model, "shift")
    assert torch.equal(model(x), files["shift"][1])


def test_one_that_is_trained_leaves_the_others_and_the_base_alone(plain, x, files):
    model = copy.deepcopy(plain)
    vpeft.load_adapter(model, files["shift"][0], name="shift")
    vpeft.attach(model, {"type": "LoRA", "rank": 2}, name="new")
    assert torch.equal(model(x), plain(x))
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    model.eval()
    tuned = model(x)
    assert not torch.equal(tuned, plain(x))
    vpeft.use(model, "shift")
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(x), files["shift"][1])
    assert {key for key, p in model.named_parameters() if p.requires_grad} >= {"blocks.0.attn.qkv.bias", "head.weight"}
    vpeft.use(model, None)
    assert torch.equal(model(x), plain(x))
    vpeft.use(model, "new")
    assert torch.equal(model(x), tuned)
    assert not model.blocks[0].attn.qkv.bias.requires_grad


def test_heads_of_other_numbers_of_classes(plain, x, files, tmp_path):
    other = copy.deepcopy(plain)
    other.reset_classifier(3)
    other.double()
    tuned = alone(other, METHODS["low"], 9)
    path = vpeft.save_adapter(tuned, tmp_path / "three.safetensors")
    model = copy.deepcopy(plain)
    vpeft.load_adapter(model, files["pets"][0], name="pets")
    vpeft.load_adapter(model, path, name="three")
    assert (model.head.out_features, model.num_classes) == (3, 3)
    assert torch.equal(model(x), tuned(x))
    vpeft.use(model, "pets")
    assert (model.head.out_features, model.num_classes) == (5, 5)
    assert torch.equal(model(x), files["pets"][1])
    vpeft.detach(model)
    assert torch.equal(model(x), plain(x))


def test_a_head_outside_the_backbone(x):
    model = nn.Sequential(build(VIT, num_classes=0), nn.Linear(64, 4, dtype=torch.float64))
    own = model(x)
    vpeft.attach(model, "LoRA", name="a")
    vpeft.attach(model, "LoRA", name="b")
    with torch.no_grad():
        model[1].weight.add_(1)
    b = model(x)
    vpeft.use(model, "a")
    assert torch.equal(model(x), own)
    vpeft.use(model, "b")
    assert torch.equal(model(x), b)
    vpeft.drop_adapter(model, "b")
    assert torch.equal(model(x), own)
    assert vpeft.adapter_names(model) == ["a"]


def test_a_copy_has_adapters_of_its_own(plain, x, files):
    model = copy.deepcopy(plain)
    for name in ("low", "pets"):
        vpeft.load_adapter(model, files[name][0], name=name)
    twin = copy.deepcopy(model)
    vpeft.use(twin, "low")
    assert torch.equal(model(x), files["pets"][1])
    assert torch.equal(twin(x), files["low"][1])


def test_an_adapter_that_cannot_be_added_leaves_the_others(plain, x, files, tmp_path):
    model = vpeft.load_adapter(copy.deepcopy(plain), files["low"][0], name="low")
    refused(lambda: vpeft.load_adapter(model, files["low"][0], name="low"), "'low' is there already")
    refused(lambda: vpeft.attach(model, {"type": "HoulsbyAdapter", "rank": 3}, name="x"), "rank")
    other = build(VIT, num_classes=5)
    with torch.no_grad():
        other.blocks[0].attn.qkv.weight.add_(1)
    path = vpeft.save_adapter(vpeft.attach(other, "LoRA"), tmp_path / "other.safetensors")
    refused(lambda: vpeft.load_adapter(model, path, name="other"), "other base weights")
    assert vpeft.adapter_names(model) == ["low"]
    assert torch.equal(model(x), files["low"][1])
    refused(lambda: vpeft.use(model, "lov"), "no adapter 'lov'", "low")
    refused(lambda: vpeft.drop_adapter(model, "low"), "the only adapter")
    vpeft.use(model, None)
    refused(lambda: vpeft.save_adapter(model, tmp_path / "x.safetensors"), "without an adapter", "vpeft.use")
    refused(lambda: vpeft.use(build(VIT), "low"), "no method is attached")


def test_names_need_one_base_that_was_loaded(plain):
    model = nn.ModuleDict({"a": copy.deepcopy(plain), "b": copy.deepcopy(plain)})
    vpeft.attach(model, "LoRA", backbone=["a", "b"])
    refused(lambda: vpeft.use(model, "x"), "attached to 2 backbones")
    merged = vpeft.attach(copy.deepcopy(plain), "LoRA")
    perturb(merged)
    vpeft.merge(merged)
    refused(lambda: vpeft.attach(merged, "BitFit", name="b"), "merged into the weights")
    assert find_adaptation(merged).several is None


def test_it_follows_a_model_that_is_moved(plain, x, files):
    model = copy.deepcopy(plain)
    for name in ("shift", "pets"):
        vpeft.load_adapter(model, files[name][0], name=name)
    model.float()
    for name in ("shift", None, "shift"):
        vpeft.use(model, name)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.allclose(model(x.float()).double(), files["shift"][1], atol=1e-4)


def test_tokens_of_a_tiny_host_are_those_of_its_method():
    model = build("mmpretrain.VisionTransformer")
    images = inputs("mmpretrain.VisionTransformer", dtype=torch.float64)
    vpeft.attach(model, "LoRA", name="a")
    perturb(model, seed=1)
    first = tokens(model, images)
    vpeft.attach(model, "LoRA", name="b")
    perturb(model, seed=2)
    assert not torch.equal(tokens(model, images), first)
    vpeft.use(model, "a")
    assert torch.equal(tokens(model, images), first)


def test_nothing_is_kept_of_a_model_that_is_gone(plain):
    model = vpeft.attach(copy.deepcopy(plain), "LoRA", name="a")
    vpeft.use(vpeft.attach(model, "LoRA", name="b"), "a")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_another_backbone_in_its_place_is_not_taken_for_the_old_one(plain):
    model = nn.Sequential(vpeft.attach(copy.deepcopy(plain), "LoRA", name="a"))
    vpeft.use(model, None)
    model[0] = vpeft.attach(copy.deepcopy(plain), "LoRA", name="b")
    assert vpeft.adapter_names(model) == ["b"]
    refused(lambda: vpeft.use(model, "a"), "no adapter 'a'")


def test_a_further_adapter_for_another_backbone_is_refused(plain):
    model = nn.Sequential(vpeft.attach(copy.deepcopy(plain), "LoRA", name="a"), copy.deepcopy(plain))
    refused(lambda: vpeft.attach(model, "LoRA", backbone="1", name="b"), "backbone='1': further adapters are for 0")
    vpeft.attach(model, "LoRA", backbone="0", name="b")
    assert vpeft.adapter_names(model) == ["a", "b"]


def test_a_folder_of_peft_gets_its_name(plain, tmp_path):
    model = vpeft.attach(copy.deepcopy(plain), "LoRA")
    save_peft(perturb(model), tmp_path / "folder")
    named = vpeft.load_adapter(copy.deepcopy(plain), tmp_path / "folder", name="pets")
    assert vpeft.adapter_names(named) == ["pets"]
