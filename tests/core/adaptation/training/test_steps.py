"""Steps of the optimiser that methods are told of, and what is kept between them."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from support.hosts import build

import vpeft
from vpeft.core.adaptation.training.steps import STATE, after_steps, keep_training_state, take_training_state
from vpeft.core.contract.training import TrainingStep
from vpeft.core.hooks.peft_hook import step_of

VIT = "timm.VisionTransformer"


def model_of(method="AdaLoRA"):
    return vpeft.attach(build(VIT, torch.float32), method)


def test_several_iterations_may_go_into_a_step():
    optimiser = torch.optim.SGD(model_of().blocks[0].peft.adalora.parameters(), lr=0.1)
    runner = SimpleNamespace(optim_wrapper=OptimWrapper(optimiser, accumulative_counts=4), iter=3, max_iters=10)
    assert step_of(runner) == TrainingStep(1, 3)
    runner.iter = 9  # the last iterations make a step of their own
    assert step_of(runner) == TrainingStep(3, 3)
    runner.optim_wrapper = OptimWrapperDict(only=OptimWrapper(optimizer=optimiser))
    assert step_of(runner) == TrainingStep(10, 10)


def test_the_optimiser_of_the_method_makes_its_steps_until_the_end():
    model, seen = model_of(), []
    own = list(model.blocks[0].peft.adalora.parameters())
    optimisers = [torch.optim.SGD(params, lr=0.1) for params in ([torch.nn.Parameter(torch.ones(1))], own)]
    ends = after_steps(model, optimisers, lambda one: seen.append(one) or TrainingStep(1, 10))
    for optimiser in optimisers:
        optimiser.step()
    assert (len(ends), len(seen)) == (1, 1)
    assert seen == [optimisers[1]]
    ends[0]()
    optimisers[1].step()
    assert len(seen) == 1
    assert after_steps(model_of("LoRA"), optimisers, lambda one: TrainingStep(1, 10)) == []
    with pytest.raises(vpeft.UserError, match="AdaLoRA follows the steps of the optimizer, and none that was given"):
        after_steps(model, optimisers[:1], lambda one: TrainingStep(1, 10))


def test_what_is_kept_goes_into_checkpoints_and_back():
    model, again, checkpoint = model_of(), model_of(), {}
    module = model.blocks[1].peft.adalora.qkv
    module.get_buffer("left_spread_v").fill_(3.0)
    keep_training_state(model, checkpoint)
    assert len(checkpoint[STATE]) == 12 * len(model.blocks)
    take_training_state(again, checkpoint, "epoch_1.pth")
    assert torch.equal(again.blocks[1].peft.adalora.qkv.get_buffer("left_spread_v"), module.get_buffer("left_spread_v"))
    with pytest.raises(vpeft.UserError, match=r"epoch_1\.pth lacks blocks\.0\.peft\.adalora\.qkv\.left_importance_q"):
        take_training_state(again, {}, "epoch_1.pth")
    plain = {}
    keep_training_state(model_of("LoRA"), plain)
    assert plain == {}
