"""Weight-space interpolation: both ends bit-equal for every method, and what lies between worked by hand."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from support.design import ON_IMAGES, chosen_pairs, in_turn
from support.hosts import TINY, build, head_prefixes, inputs, perturb, tokens
from torch import nn

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.extension.interpolation import curve
from vpeft.extension.interpolation.wise import Interpolation, head_of

HOSTS = ("mmpretrain.VisionTransformer", "mmpretrain.SwinTransformer")
#: One method for each way, and for each kind of place.
SAMPLE = (
    "LoRA",
    "SSF",
    "UTuning",
    "HoulsbyAdapter",
    "Convpass",
    "SNF",
    "DyT",
    "PATT",
    "PrefixTuning",
    "VPTDeep",
    "NOAH",
    "E3VA",
)


def others():
    """On every other host two of those that the contract is gone through with there; they take turns."""
    for i, host in enumerate(host for host in TINY if host not in HOSTS):
        methods = [method for other, method in chosen_pairs() if other == host and method in SAMPLE]
        start = 2 * i % max(len(methods), 1)
        yield from in_turn([host], methods[start:] + methods[:start], 2)


#: Reasons, by what a method does, for which nothing lies between start and tuned model, as its message has them; and
#: the methods that may be refused for each.
REASONS = {
    "gives an output of the shape": {"HST", "VQT"},  # a read-out in the place of the tokens, in another width
    "is defined for a backbone of one width": {"LST", "LAST", "HST", "VQT", "ViT-Split", "ViT-Adapter"},  # with stages
    "has no output norm to read at": {"E3VA"},
}
#: What every method's contributions are, where they are not weights alone.
OPERATIONS = {"VPTDeep", "VPTShallow", "VFPT", "E2VPT", "PrefixTuning", "NOAH"}


def images(host):
    return inputs(host, dtype=torch.float64)


def interpolated(host, method):
    """The plain host, the tuned one, and the path between them."""
    plain = build(host)
    model = copy.deepcopy(plain)
    torch.manual_seed(11)
    refusal = path = None
    try:
        vpeft.attach(model, method)
        perturb(model)
        path = Interpolation(model, lambda: tokens(model, images(host)))
    except vpeft.UserError as error:
        refusal = str(error)
    if refusal is not None:
        assert any(reason in refusal and method in names for reason, names in REASONS.items()), refusal
        pytest.skip(f"refused: {refusal}")
    heads, own = head_prefixes(model), plain.state_dict()
    for key, value in model.state_dict().items():  # the task's head is no part of the path
        if heads and key.startswith(heads):
            own[key].copy_(value)
    asks = {key: param.requires_grad for key, param in model.named_parameters()}
    for key, param in plain.named_parameters():
        param.requires_grad_(asks[key])  # torch's products round differently where a weight asks for a gradient
    return plain, model, path


@pytest.mark.slow
@pytest.mark.parametrize(("host", "method"), others())
def test_both_ends_are_exact_on_the_other_hosts(host, method):
    check_ends(host, method)


@pytest.mark.parametrize("method", ON_IMAGES)
@pytest.mark.parametrize("host", HOSTS)
def test_both_ends_are_exact(host, method):
    check_ends(host, method)


def check_ends(host, method):
    plain, model, path = interpolated(host, method)
    x = images(host)
    start, tuned = tokens(plain, x), tokens(model, x)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with path.at(0):
        assert torch.equal(tokens(model, x), start)
    with path.at(1):
        assert torch.equal(tokens(model, x), tuned)
    middle, near_start, near_tuned = (_at(path, model, x, alpha) for alpha in (0.5, 1e-7, 1 - 1e-7))
    scale = start.abs().max()
    assert (near_start - start).abs().max() <= 1e-4 * scale
    assert (near_tuned - tuned).abs().max() <= 1e-4 * scale
    if method != "Linear":  # which changes nothing of the host
        assert not torch.allclose(middle, start)
        assert not torch.allclose(middle, tuned)
        assert path.weights or path.places
    assert torch.equal(tokens(model, x), tuned)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any("site_forward" in m.__dict__ or "site_attention" in m.__dict__ for m in model.modules())


def _at(path, model, x, alpha):
    with path.at(alpha):
        return tokens(model, x)


@pytest.mark.parametrize("method", ON_IMAGES)
def test_the_way_follows_from_what_the_method_is_made_of(method):
    _, model, path = interpolated(HOSTS[0], method)
    (built,) = get_adaptation(model).methods.values()
    operations = any(place.how == "operation" for place in path.places)
    assert operations == (method in OPERATIONS)
    if built.mergeable:
        assert path.places == []
        assert bool(path.weights) == (method != "Linear")
    else:
        assert path.places
    assert bool(path.weights) == (
        bool(get_adaptation(model).originals) or built.mergeable or built.partly_mergeable
    ) or (method == "Linear")


def test_weights_by_hand():
    """LoRA: half of the update is what half of alpha is; the same as scaling the second factor."""
    _, model, path = interpolated(HOSTS[0], {"type": "LoRA", "rank": 2})
    x = images(HOSTS[0])
    half = _at(path, model, x, 0.5)
    with torch.no_grad():
        for key, param in model.named_parameters():
            if "peft" in key and ".up." in key:
                param.mul_(0.5)
    torch.testing.assert_close(tokens(model, x), half, rtol=1e-9, atol=1e-9)


def test_existing_weights_by_hand():
    plain, model, path = interpolated(HOSTS[0], "BitFit")
    start, end = plain.state_dict(), {key: value.clone() for key, value in model.state_dict().items()}
    assert path.weights == sorted(key for key in start if not torch.equal(start[key], end[key]))
    with path.at(0.3):
        for key, value in model.state_dict().items():
            torch.testing.assert_close(value, 0.7 * start[key] + 0.3 * end[key], rtol=1e-12, atol=1e-12)


def test_contributions_by_hand():
    """AdaptFormer: scaling by alpha is the method with a scale of alpha times its own."""
    _, model, path = interpolated(HOSTS[0], {"type": "AdaptFormer", "bottleneck": 4, "scale": 0.8, "drop": 0.0})
    half = _at(path, model, images(HOSTS[0]), 0.25)
    for module in get_adaptation(model).peft_modules():
        module.scale = 0.2
    torch.testing.assert_close(tokens(model, images(HOSTS[0])), half, rtol=1e-9, atol=1e-9)
    assert {(p.site, p.placement, p.how) for p in path.places} == {("mlp_residual", "parallel", "contribution")}


def test_modules_beside_a_branch_by_hand():
    _, model, path = interpolated(HOSTS[0], {"type": "Convpass", "scale": 0.8, "drop": 0.0})
    half = _at(path, model, images(HOSTS[0]), 0.25)
    for module in get_adaptation(model).peft_modules():
        module.scale = 0.2
    torch.testing.assert_close(tokens(model, images(HOSTS[0])), half, rtol=1e-9, atol=1e-9)


def test_a_prefix_by_hand():
    """One block: the attention's output is the mean of that without and that with the prefix."""
    _, model, path = interpolated(HOSTS[0], {"type": "PrefixTuning", "prefix_length": 2})
    block = get_adaptation(model).host.blocks[0].module
    x = torch.randn(2, 17, 64, dtype=torch.float64)
    with path.at(0.5):
        mixed = block.site_attention(x)
    with vpeft.disabled(model):
        without = block.site_attention(x)
    torch.testing.assert_close(mixed, (without + block.site_attention(x)) / 2)
    assert {(p.site, p.how) for p in path.places} == {("core", "operation")}


def test_prompts_by_hand():
    """One block on one stream: the mean of the block without and with its prompts."""
    _, model, path = interpolated(HOSTS[0], {"type": "VPTDeep", "prompt_length": 3})
    block = get_adaptation(model).host.blocks[1].module
    x = torch.randn(2, 17, 64, dtype=torch.float64)
    with path.at(0.5):
        mixed = block(x)
    with vpeft.disabled(model):
        without = block(x)
    torch.testing.assert_close(mixed, (without + block(x)) / 2)


def test_a_side_network_by_hand():
    """LST's output takes the place of the norm's; between them it is their mean."""
    plain, model, path = interpolated(HOSTS[0], "LST")
    x = images(HOSTS[0])
    torch.testing.assert_close(_at(path, model, x, 0.5), (tokens(plain, x) + tokens(model, x)) / 2)
    assert [(p.site, p.how) for p in path.places] == [("norm.0", "contribution")]


def test_a_list_of_methods_takes_both_ways():
    _, _, path = interpolated(HOSTS[0], [{"type": "LoRA"}, {"type": "VPTDeep"}])
    assert path.weights == [f"layers.{i}.attn.qkv.weight" for i in range(3)]
    assert {place.site for place in path.places} == {"block"}
    assert set(path.how()) == {"weights", "operation", "head"}


class Classifier(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.fc = backbone, nn.Linear(64, 5).double()

    def forward(self, x):
        return self.fc(self.backbone(x)[-1].mean(1))


def test_the_head():
    torch.manual_seed(3)
    plain = Classifier(build(HOSTS[0]))
    model = copy.deepcopy(plain)
    vpeft.attach(model, "AdaptFormer")
    perturb(model)
    x = images(HOSTS[0])
    kept = Interpolation(model, lambda: model(x))
    start = dict(plain.state_dict())
    moved = Interpolation(model, lambda: model(x), start)
    with kept.at(0):
        features = plain.backbone(x)[-1].mean(1)
        assert torch.equal(model(x), model.fc(features))
    with moved.at(0):
        assert torch.equal(model(x), plain(x))
    with moved.at(0.25):
        expected = 0.75 * plain.fc.bias + 0.25 * moved.head["fc.bias"][2]
        torch.testing.assert_close(model.fc.bias, expected)
    assert (kept.how()["head"], moved.how()["head"]) == ("the tuned one throughout", "interpolated")
    assert set(head_of(model)) == {"fc.weight", "fc.bias"}
    start["fc.bias"] = torch.zeros(7)
    with pytest.raises(vpeft.UserError, match=r"fc.bias has the shape \(7,\)"):
        Interpolation(model, lambda: model(x), start)


def test_wrong_use():
    _, model, path = interpolated(HOSTS[0], "LoRA")
    with pytest.raises(vpeft.UserError, match="from 0 to 1"), path.at(1.5):
        pass
    vpeft.merge(model)
    with pytest.raises(vpeft.UserError, match="merged"):
        Interpolation(model, lambda: None)
    with pytest.raises(vpeft.UserError, match="attach"):
        Interpolation(build(HOSTS[0]), lambda: None)


@pytest.mark.parametrize(
    ("own", "best"), [([80.0, 80.0, 80.0], 0.5), ([90.0, 80.0, 90.0], 1.0), ([99.0, 70.0, 70.0], 0.0)]
)
def test_the_best_alpha_is_that_of_the_largest_mean_of_both(monkeypatch, own, best):
    shifted = {"noise-1": [40.0, 60.0, 60.0], "blur-1": [40.0, 60.0, 50.0]}  # their means are 40, 60 and 55
    values = iter([value for row in zip(own, *shifted.values(), strict=True) for value in row])
    loaders = {key: [{}] for key in ["in distribution", *shifted]}
    path = SimpleNamespace(at=lambda alpha: nullcontext(), how=dict)
    monkeypatch.setattr(curve, "data_sets", lambda run, shifts: loaders)
    monkeypatch.setattr(curve, "Interpolation", lambda model, forward, head: path)
    monkeypatch.setattr(curve, "evaluate", lambda model, run, loader: {"accuracy": next(values)})
    run = SimpleNamespace(label="a run", task="digits", cfg={}, model=lambda: None)
    report = curve.wise_curve(run, list(shifted), (0.0, 0.5, 1.0))
    assert report["curves"] == {"in distribution": own, **shifted}
    assert (report["shifted_mean"], report["best"]) == ([40.0, 60.0, 55.0], best)
