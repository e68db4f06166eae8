"""PACE: noise on what methods add, and the agreement of two passes."""

from types import SimpleNamespace

import pytest
import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from support.hosts import build, perturb, tokens
from support.plain_vit import HOST, SIZE, PlainViT, images
from torch import nn

import vpeft
from vpeft.apis.testing.hosts.mmpretrain.vit import ARCH
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.options.noise import Consistency, Noise
from vpeft.core.adaptation.training.losses import add_losses, consistency_of
from vpeft.core.backbones.sites import flow
from vpeft.core.hooks.peft_hook import PEFTHook
from vpeft.errors import UserError

PACE = {"sigma": 0.6, "weight": 2.0}
LORA = {"type": "LoRA", "rank": 4, "alpha": 3, "targets": ["q", "v", "fc1"]}


@pytest.fixture
def factors(monkeypatch):
    """The noise of every place, as it is drawn."""
    found, draw = {}, Noise.factor

    def recorded(self, y, drawn):
        found[self.place] = draw(self, y, drawn)
        return found[self.place]

    monkeypatch.setattr(Noise, "factor", recorded)
    return found


class PlainNoisyLoRA(PlainViT):
    """``y + (1 + e) s B A x`` on q, v and fc1."""

    def linear(self, key, x):
        y = super().linear(key, x)
        site = {"attn.qkv": "qkv", "ffn.layers.0.0": "fc1"}.get(key.removeprefix("layers.").partition(".")[2])
        if site is None:
            return y
        i, delta = int(key.split(".")[1]), torch.zeros_like(y)
        for target, third in (("q", 0), ("v", 2)) if site == "qkv" else (("fc1", None),):
            own = f"layers.{i}.peft.lora.{site}"
            change = 3 / 4 * x @ self.state[f"{own}.down.{target}"].T @ self.state[f"{own}.up.{target}"].T
            rows = slice(None) if third is None else slice(third * 64, third * 64 + 64)
            delta[..., rows] = change
        return y + delta * self.options["factors"].get(f"{i} {site} 0", 1)


def test_the_equation(factors):
    """``h = base(x) + delta(x) (1 + e)``, the first block without; in evaluation without noise."""
    model = perturb(vpeft.attach(build(HOST, img_size=SIZE), {**LORA, "consistency": PACE}))
    for module in model.train().modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    noisy = tokens(model, images())
    assert sorted(factors) == [f"{i} {site} 0" for i in (1, 2) for site in ("fc1", "qkv")]
    assert {tuple(factor.shape) for factor in factors.values()} == {(2, 1, 3 * 64), (2, 1, 2 * 64)}
    state = {k: v.detach() for k, v in model.state_dict().items()}
    torch.testing.assert_close(noisy, PlainNoisyLoRA(state, factors=factors)(images()), rtol=1e-10, atol=1e-10)
    get_adaptation(model).host.passes.seed = 99
    assert not torch.allclose(tokens(model, images()), noisy)
    quiet = tokens(model.eval(), images())
    torch.testing.assert_close(quiet, PlainNoisyLoRA(state, factors={})(images()), rtol=1e-10, atol=1e-10)


def test_the_spread_falls_with_the_depth():
    host = get_adaptation(vpeft.attach(build(HOST), "LoRA")).host
    assert Consistency(1.2).spreads(host) == pytest.approx([0, 1.2, 0.8, 0.4])  # three blocks and the head
    assert Consistency(1.2, free=0).spreads(host) == pytest.approx([1.2, 0.9, 0.6, 0.3])
    stages = get_adaptation(vpeft.attach(build("mmpretrain.SwinTransformer"), "LoRA")).host
    count = len(stages.blocks) + 1
    assert Consistency(1.0).spreads(stages) == pytest.approx([1 - i / count for i in range(count)])


def test_the_draws():
    """Around 1, of the spread asked for, one for a sample and channel, the same for the windows of an image."""
    y, noise = torch.zeros(6, 5, 4000, dtype=torch.float64), Noise(0.5, "1 qkv 0")
    factor = noise.factor(y, (3, 2))
    assert factor.shape == (6, 1, 4000)
    assert factor.dtype == torch.float64
    assert torch.equal(factor[0], factor[1])
    assert torch.equal(factor[3], factor[5])
    assert not torch.equal(factor[2], factor[3])
    assert float(factor.mean()) == pytest.approx(1, abs=0.02)
    assert float(factor[[0, 3]].std()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(factor, noise.factor(y, (3, 2)))
    assert not torch.equal(factor, noise.factor(y, (4, 2)))
    assert not torch.equal(factor, Noise(0.5, "2 qkv 0").factor(y, (3, 2)))


@pytest.mark.parametrize(("method", "site"), [("LoRA", "qkv"), ("LoRAmul", "fc1"), ("AdaptFormer", "mlp_residual")])
def test_every_way_of_adding_is_noisy(method, site):
    """What writes into its input, what has no forward of its own, and what adds to the stream."""
    model = perturb(vpeft.attach(build(HOST), {"type": method, "consistency": PACE}))
    host = get_adaptation(model).host
    place = host.blocks[1].sites[site]
    (entry,) = place.entries
    inputs, outputs = (place.module.in_features, place.module.out_features) if place.module else (64, 64)
    x, y = (torch.randn(2, 5, n, dtype=torch.float64) for n in (inputs, outputs))
    host.passes.begin(1)
    host.flow.drawn = (7, 2)
    delta = place.after(x, y.clone()) - y
    entry.module.training = True  # it alone: dropout inside stays off
    torch.testing.assert_close(place.after(x, y.clone()), y + delta * entry.noise.factor(y, (7, 2)))


def classifier(method, drop_path=0.0, seed=0):
    backbone = {"type": "VisionTransformer", "arch": ARCH, "img_size": 32, "patch_size": 8, "drop_path_rate": drop_path}
    head = {"type": "LinearClsHead", "num_classes": 5, "in_channels": 64}
    torch.manual_seed(seed)
    model = perturb(vpeft.attach(ImageClassifier(backbone=backbone, head=head).double(), method)).train()
    add_losses(model)
    return model


def batch(count=4):
    x = torch.randn(count, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    said = [{"sample_idx": 10 + i, "img_path": f"{i}.png"} for i in range(count)]
    return x, [DataSample(metainfo=one).set_gt_label(i % 5) for i, one in enumerate(said)]


def watched(model):
    """What the head's linear gives in every pass, with its noise."""
    seen = []
    model.head.fc.register_forward_hook(lambda m, a, y: seen.append(y))
    return seen


def test_a_loop_without_the_loss_is_told_once(monkeypatch):
    said = []
    monkeypatch.setattr(flow, "print_log", lambda message, **_: said.append(message))
    flow._say_alone.cache_clear()
    model = classifier({**LORA, "consistency": PACE})
    model.loss(*batch())
    assert not said
    for _ in range(2):
        model.backbone(batch()[0])
    assert len(said) == 1
    assert "without the loss that compares two passes" in said[0]


def test_full_is_the_squared_distance_of_two_passes():
    model = classifier({**LORA, "consistency": PACE})
    seen = watched(model)
    losses = model.loss(*batch())
    one, two = seen
    assert losses.keys() == {"loss", "loss_consistency"}
    distance = 2 * ((one - two) ** 2).sum(1).mean()
    torch.testing.assert_close(losses["loss_consistency"].double(), distance, rtol=1e-6, atol=0)
    labels = torch.tensor([s.gt_label.item() for s in batch()[1]])
    torch.testing.assert_close(losses["loss"], nn.functional.cross_entropy(one, labels))
    assert float(distance.detach()) > 1e-3
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_both_passes_drop_the_same_paths():
    """Without noise to speak of, they are one pass twice, though DropPath and dropout draw; and the draws after are
    those of a single pass.
    """
    quiet = {**LORA, "drop": 0.3, "consistency": {"sigma": 1e-9}}
    model = classifier(quiet, drop_path=0.5)
    seen = watched(model)
    for _ in range(2):
        losses = model.loss(*batch())
        assert float(losses["loss_consistency"]) < 1e-12
    assert not torch.allclose(seen[0], seen[2])  # another step, other paths
    single = classifier({**quiet, "consistency": {"sigma": 1e-9, "kind": "lazy"}}, drop_path=0.5)
    consistency_of(single).steps = 1
    after = []
    for one in (model, single):
        torch.manual_seed(9)
        one.loss(*batch())
        after.append(torch.rand(3))
    assert torch.equal(*after)


def test_lazy_has_two_passes_of_half_a_batch_now_and_then():
    model = classifier({**LORA, "consistency": {**PACE, "kind": "lazy", "every": 3}})
    seen = watched(model)
    steps = []
    for _ in range(7):
        losses = model.loss(*batch(5))
        steps.append(([len(y) for y in seen], "loss_consistency" in losses))
        seen.clear()
    twice, once = ([2, 2], True), ([5], False)
    assert steps == [twice, once, once, twice, once, once, twice]
    resumed = classifier({**LORA, "consistency": {**PACE, "kind": "lazy", "every": 3}})
    consistency_of(resumed).resume(2, None)
    assert ["loss_consistency" in resumed.loss(*batch()) for _ in range(2)] == [False, True]


def test_fast_compares_with_the_scores_of_before():
    model = classifier({**LORA, "consistency": {**PACE, "kind": "fast"}})
    seen = watched(model)
    losses = [model.loss(*batch())["loss_consistency"].double() for _ in range(3)]
    assert len(seen) == 3
    for loss, now, before in zip(losses, seen, [torch.zeros(4, 5), *seen], strict=False):
        torch.testing.assert_close(loss, 2 * ((now - before.detach()) ** 2).sum(1).mean(), rtol=1e-5, atol=1e-7)
    state = consistency_of(model).state()
    assert state["keys"][1] == ["1.png", 11]
    again = classifier({**LORA, "consistency": {**PACE, "kind": "fast"}})
    with pytest.raises(UserError, match="lacks the scores"):
        consistency_of(again).resume(3, None)
    consistency_of(again).resume(3, state)
    assert torch.equal(torch.stack(list(consistency_of(again).last.values())), state["scores"])
    x, _ = batch()
    with pytest.raises(UserError, match="sample_idx"):
        again.loss(x, [DataSample().set_gt_label(0)] * 4)


def test_checkpointed_blocks_draw_the_same_noise():
    from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

    gradients = []
    for checkpointed in (False, True):
        model = classifier({**LORA, "consistency": PACE}, drop_path=0.3)
        if checkpointed:
            turn_on_activation_checkpointing(model.backbone, [f"layers.{i}" for i in range(3)])
        torch.manual_seed(2)
        sum(model.loss(*batch()).values()).backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ({"type": "VPTDeep"}, "places modules after, before"),
        ({"type": "SSF"}, "places modules after"),
        ({"type": "Mona"}, "places modules after"),
        ({"type": "DyT"}, "places modules around, before"),
        ({"type": "DoRA"}, "places modules after"),
        ({"type": "BitFit"}, "trains the base's own parameters"),
        ({"type": "Linear"}, "places no module in a block"),
    ],
)
def test_what_does_not_only_add_is_refused(method, why):
    with pytest.raises(UserError, match=f"^{method['type']}: consistency is for methods that only add.*{why}"):
        vpeft.attach(build(HOST), {**method, "consistency": PACE})


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({}, "needs sigma"),
        ({"sigma": -1.0}, "sigma=-1.0 must be a number from 1e-09 to 100"),
        ({"sigma": 1.0, "kind": "quick"}, "kind='quick' must be one of"),
        ({"sigma": 1.0, "every": 2}, "every=2 is of kind='lazy'"),
        ({"sigma": 1.0, "wieght": 2.0}, "did you mean 'weight'"),
        ({"sigma": 1.0, "free": 4}, "free=4 leaves none of its 3 blocks noisy"),
    ],
)
def test_wrong_settings_are_refused(wrong, why):
    with pytest.raises(UserError, match=why):
        vpeft.attach(build(HOST), {**LORA, "consistency": wrong})


def test_scores_of_something_else_and_two_settings_are_refused():
    model = classifier({**LORA, "consistency": PACE})
    with pytest.raises(UserError, match=r"class scores of each image"):
        consistency_of(model)(lambda x, y: ({}, torch.zeros(4, 5, 6)), *batch())
    two = [{**LORA, "consistency": PACE}, {"type": "AdaptFormer", "consistency": {"sigma": 0.1}}]
    with pytest.raises(UserError, match="several methods state consistency, and not the same"):
        classifier(two)


def test_a_compiled_run_is_refused_before_its_first_step():
    runner = SimpleNamespace(model=classifier({**LORA, "consistency": PACE}), cfg={"compile": True}, iter=0)
    with pytest.raises(UserError, match=r"^compile= beside consistency=: .* Leave one out") as error:
        PEFTHook().before_train(runner)
    assert "\n" not in str(error.value)


def test_a_compiled_pass_is_refused_in_training_alone(monkeypatch):
    monkeypatch.setattr("vpeft.core.adaptation.options.noise.in_program", lambda: True)
    model = classifier({**LORA, "consistency": PACE}).backbone
    with pytest.raises(UserError, match="draws its noise anew in every pass: train without torch"):
        model(batch()[0])
    model.eval()(batch()[0])
