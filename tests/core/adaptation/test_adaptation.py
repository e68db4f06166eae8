"""The life of an adapter on a model: attach, switch off, take apart, several in turn, several at once."""

import copy

import pytest
import torch
from support.design import in_turn
from support.hosts import TINY, build, head_prefixes, loss, perturb, tokens
from support.refusals import attached, merged

import vpeft
from vpeft.core.adaptation.find import find_adaptation, get_adaptation
from vpeft.core.backbones.find import find_host

hosts = pytest.mark.parametrize("host", sorted(TINY))
VIT = "mmpretrain.VisionTransformer"


def same_state(model, plain) -> None:
    """The model is the plain one again: keys, values, flags, hooks."""
    assert list(model.state_dict()) == list(plain.state_dict())
    state = plain.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in plain.parameters()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all("forward" not in vars(m) for m in model.modules())
    assert get_adaptation(model) is None


ADAPTERS = ["LoRA", {"type": "VPTDeep", "prompt_length": 3}, "SSF", "Mona", "BitFit", "PfeifferAdapter"]


@pytest.mark.parametrize(("host", "first"), in_turn(sorted(TINY), range(len(ADAPTERS))))
def test_several_adapters_on_one_base_in_turn(host, first, images, tmp_path):
    """Three of them."""
    model = build(host)
    plain = copy.deepcopy(model)
    own = {}
    for cfg in [*ADAPTERS, *ADAPTERS][first : first + 3]:
        name = cfg if isinstance(cfg, str) else cfg["type"]
        if name == "VPTDeep" and not all(block.takes_tokens for block in find_host(model).blocks):
            continue
        vpeft.attach(model, cfg)
        heads = head_prefixes(model)
        for key, param in model.named_parameters():
            param.requires_grad_(param.requires_grad and not key.startswith(heads))  # it is not stored
        perturb(model)
        own[name] = tokens(model, images)
        vpeft.save_adapter(model, tmp_path / f"{name}.safetensors", head=False)
        vpeft.detach(model)
    for name in reversed(own):
        vpeft.load_adapter(model, tmp_path / f"{name}.safetensors")
        assert torch.equal(tokens(model, images), own[name]), name
        vpeft.detach(model)
    assert torch.equal(tokens(model, images), tokens(plain, images))
    outs = list(own.values())
    assert not any(torch.equal(a, b) for i, a in enumerate(outs) for b in outs[:i])


@hosts
@pytest.mark.parametrize("flag", [True, False])
def test_detach_gives_the_flags_back(host, flag):
    model = build(host)
    for i, param in enumerate(model.parameters()):
        param.requires_grad_((i % 3 == 0) == flag)
    plain = copy.deepcopy(model)
    vpeft.attach(model, ["SSF", "BitFit"])
    perturb(model)
    head = {k for k in plain.state_dict() if k.startswith("head")}
    vpeft.detach(model)
    with torch.no_grad():  # the task's head is no part of the base
        for key, value in plain.state_dict().items():
            if key in head:
                model.state_dict()[key].copy_(value)
    same_state(model, plain)


def test_attach_twice_is_refused(images):
    model = vpeft.attach(build(VIT), "LoRA")
    perturb(model)
    out, state = tokens(model, images), copy.deepcopy(model.state_dict())
    with pytest.raises(vpeft.UserError, match="attached to this model already"):
        vpeft.attach(model, "SSF")
    assert torch.equal(tokens(model, images), out)
    assert list(model.state_dict()) == list(state)


@pytest.mark.parametrize("act", [vpeft.detach, vpeft.merge, vpeft.unmerge])
def test_nothing_attached(act):
    with pytest.raises(vpeft.UserError, match="no method is attached to this VisionTransformer"):
        act(build(VIT))


FAULTS = [
    ("Lora", "unknown PEFT method 'Lora': did you mean 'LoRA'"),
    ({"rank": 8}, "unknown PEFT method None"),
    ({"type": "LoRA", "rnk": 8}, "LoRA has no hyper-parameter 'rnk': did you mean 'rank'"),
    ({"type": "LoRA", "rank": 0}, "LoRA: rank=0 must be a whole number from 1 to 65536."),
    ({"type": "LoRA", "rank": 65_536}, ", the narrowest width"),
    ({"type": "LoRA", "rank": 2.5}, "rank=2.5 must be a whole number"),
    ({"type": "LoRA", "targets": ["q", "fc3"]}, "unknown targets 'fc3': did you mean 'fc"),
    ({"type": "LoRA", "targets": []}, "must name at least one"),
    ({"type": "LoRA", "targets": ["q", "q"]}, "each once"),
    ({"type": "AdaptFormer", "bottleneck": 65_536}, "bottleneck=65536"),
    ({"type": "VPTDeep", "prompt_length": 0}, "prompt_length=0"),
    (["SSF", {"type": "LoRA", "rank": 0}], "LoRA: rank=0"),
]


@pytest.mark.parametrize(("host", "cfg", "message"), in_turn(sorted(TINY), FAULTS, 3))
def test_a_failed_attach_leaves_the_model_whole(host, cfg, message, images):
    model = build(host)
    plain = copy.deepcopy(model)
    with pytest.raises(vpeft.UserError) as error:
        vpeft.attach(model, cfg)
    assert message in str(error.value)
    same_state(model, plain)
    assert torch.equal(tokens(model, images), tokens(plain, images))


@hosts
@pytest.mark.parametrize(
    ("site", "placement", "message"),
    [("mlp_brunch", "parallel", "no site 'mlp_brunch': did you mean 'mlp_branch'"), ("fc1", "shortcut", "takes no")],
)
def test_a_site_or_placement_that_the_host_lacks(host, site, placement, message, images):
    from vpeft.core.contract.method import Method

    class Lost(Method):
        category, paper = "adapter", "none"

        @classmethod
        def registered_name(cls):
            return "Lost"

        def build(self, host):
            host.blocks[0].place("fc1", "before", torch.nn.Identity(), "first")
            host.blocks[1].place(site, placement, torch.nn.Identity(), "second")

    model = build(host)
    plain = copy.deepcopy(model)
    with pytest.raises(vpeft.UserError) as error:
        vpeft.attach(model, Lost())
    assert message in str(error.value)
    assert host.split("/")[0] in str(error.value)
    same_state(model, plain)


def test_no_host_in_the_model():
    with pytest.raises(vpeft.UserError, match="VisionTransformer"):
        vpeft.attach(torch.nn.Linear(2, 2), "LoRA")


@hosts
def test_modules_take_the_mode_of_the_model(host):
    for mode in (True, False):
        model = build(host)
        model.train(mode)
        vpeft.attach(model, {"type": "AdaptFormer", "drop": 0.5})
        modules = [m for one in find_adaptation(model).peft_modules() for m in one.modules()]
        assert len(modules) > 4
        assert {m.training for m in modules} == {mode}
        model.train(not mode)
        assert {m.training for m in modules} == {not mode}


@hosts
@torch.no_grad()  # torch's products round differently where one side asks for a gradient
def test_disabled_ends_well_on_an_error(host, images):
    model = build(host).requires_grad_(False)
    base = tokens(model, images)
    vpeft.attach(model, ["LoRA", "BitFit"])
    perturb(model)
    out = tokens(model, images)

    class Stop(Exception):
        pass

    seen = []

    def use() -> None:
        with vpeft.disabled(model):
            seen.append(tokens(model, images))
            raise Stop

    with pytest.raises(Stop):
        use()
    assert torch.equal(seen[0], base)
    assert torch.equal(tokens(model, images), out)
    vpeft.merge(model)
    with vpeft.disabled(model):
        assert torch.equal(tokens(model, images), base)
    vpeft.unmerge(model)
    assert torch.equal(tokens(model, images), out)


@hosts
@pytest.mark.parametrize(
    ("cfg", "stays"),
    [(["LoRA", {"type": "VPTDeep", "prompt_length": 3}], ["vptdeep"]), (["SSF", "AdaptFormer"], ["adaptformer"])],
)
def test_lists_of_methods(host, cfg, stays, images, tmp_path):
    model = build(host)
    plain = copy.deepcopy(model)
    model = perturb(attached(host, plain, cfg))
    own = [p for p in find_adaptation(model).peft_modules() for p in p.parameters()]
    optimiser = torch.optim.SGD(own, lr=1e-3)
    before = loss(tokens(model, images))
    before.backward()
    assert all(p.grad is not None and p.grad.any() for p in own)
    optimiser.step()
    assert loss(tokens(model, images)) < before

    out = tokens(model, images)
    vpeft.save_adapter(model, tmp_path / "both.safetensors")
    other = vpeft.load_adapter(copy.deepcopy(plain), tmp_path / "both.safetensors")
    assert torch.equal(tokens(other, images), out)
    assert list(find_adaptation(other).methods) == list(find_adaptation(model).methods)

    left = merged(model)
    assert set(stays) <= set(left)
    torch.testing.assert_close(tokens(model, images), out, rtol=1e-9, atol=1e-9)
    vpeft.unmerge(model)
    assert torch.equal(tokens(model, images), out)


def test_one_method_twice_has_two_keys(images):
    model = vpeft.attach(build(VIT), [{"type": "LoRA", "rank": 2}, {"type": "LoRA", "rank": 3, "targets": ["fc1"]}])
    assert list(find_adaptation(model).methods) == ["lora", "lora_2"]
    perturb(model)
    out = tokens(model, images)
    assert vpeft.merge(model) == []
    torch.testing.assert_close(tokens(model, images), out, rtol=1e-9, atol=1e-9)


def test_detach_after_merging_keeps_the_result(images):
    model = vpeft.attach(build(VIT), ["LoRA", "BitFit"])
    perturb(model)
    out = tokens(model, images)
    vpeft.merge(model)
    vpeft.detach(model, restore=False)
    assert get_adaptation(model) is None
    torch.testing.assert_close(tokens(model, images), out, rtol=1e-9, atol=1e-9)


def test_freezing_behind_the_back_is_noticed():
    model = vpeft.attach(build(VIT), "LoRA")
    adaptation = find_adaptation(model)
    adaptation.check_trained()
    next(iter(adaptation.peft_modules())).requires_grad_(False)
    with pytest.raises(vpeft.UserError, match="frozen after attaching"):
        adaptation.check_trained()
