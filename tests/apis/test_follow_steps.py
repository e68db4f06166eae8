"""Loops of one's own tell methods of their steps."""

import pytest
import torch
from support.hosts import build, inputs, loss, tokens

import vpeft
from vpeft.core.contract.training import TrainingStep

VIT = "timm.VisionTransformer"
METHOD = {"type": "AdaLoRA", "rank": 6, "target_rank": 2, "warmup": 0.0, "final": 0.5}


def loop(model, optimizers, steps):
    for number in range(steps):
        model.zero_grad()
        loss(tokens(model, inputs(VIT, dtype=torch.float32, seed=number))).backward()
        for one in optimizers:
            one.step()


def left(model):
    """Triplets that stand, a target."""
    values = [p for name, p in model.named_parameters() if ".values." in name]
    return sum(int((p != 0).sum()) for p in values) / len(values)


def adapted():
    torch.manual_seed(0)
    return vpeft.attach(build(VIT, torch.float32), METHOD).eval()


def test_a_plain_loop_prunes_to_the_rank_that_was_asked_for():
    found = []
    for follow in (False, True):
        model = adapted()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        end = vpeft.follow_steps(model, optimizer, total=6) if follow else None
        loop(model, [optimizer], 6)
        found.append(left(model))
    assert found == [6, 2]
    end()
    assert not optimizer._optimizer_step_post_hooks


def test_steps_are_counted_for_each_optimizer_and_go_on(monkeypatch):
    seen = []
    monkeypatch.setattr("vpeft.core.adaptation.options.on_host.OnHost.after_step", lambda self, step: seen.append(step))
    model = adapted()
    own = [p for name, p in model.named_parameters() if ".peft." in name]
    other = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    optimizers = [other, torch.optim.SGD(own, lr=0.1)]
    vpeft.follow_steps(model, optimizers, total=5, done=2)
    loop(model, optimizers, 4)
    assert seen == [TrainingStep(number, 5) for number in (3, 4, 5, 5)]  # behind the last one it is the last


def test_nothing_to_follow_is_no_error():
    model = vpeft.attach(build(VIT, torch.float32), "LoRA")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    vpeft.follow_steps(model, [optimizer], total=1)()
    assert not optimizer._optimizer_step_post_hooks


def test_what_cannot_be_followed_is_refused():
    model = adapted()
    stranger = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(vpeft.UserError, match="AdaLoRA follows the steps of the optimizer, and none"):
        vpeft.follow_steps(model, stranger, total=5)
    assert not stranger._optimizer_step_post_hooks
    with pytest.raises(vpeft.UserError, match=r"Linear is no torch\.optim\.Optimizer"):
        vpeft.follow_steps(model, [torch.nn.Linear(1, 1)], total=5)
    for numbers in ({"total": 0}, {"total": 5, "done": 5}, {"total": 5, "done": -1}):
        with pytest.raises(vpeft.UserError, match="steps of the whole training"):
            vpeft.follow_steps(model, stranger, **numbers)
