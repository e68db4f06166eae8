"""What is reported as trained moves, or the run stops and names it."""

import pytest
import torch
from support.hosts import build, tokens
from torch import nn

import vpeft
from vpeft.core.adaptation.training.movement import LONGEST, PATIENCE, Movement

LORA = {"type": "LoRA", "rank": 4}
TIMM = "timm.VisionTransformer"


class Run:
    """A training loop of a tiny model, one step at a time."""

    def __init__(self, model=None, groups=None):
        self.model = vpeft.attach(build(TIMM, dtype=torch.float32) if model is None else model, LORA).train()
        trained = groups(self.model) if groups else [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0)
        self.movement = Movement(self.model)
        self.images = torch.randn(2, 3, 32, 32)

    def step(self, act=True, end=False):
        self.optimiser.zero_grad()
        out = tokens(self.model, self.images, self.movement.iterations)
        (out.square().mean() + self.model.head(out.mean(1)).square().mean()).backward()
        if act:
            self.optimiser.step()
        return self.movement.look([self.optimiser], end)

    def refused(self, steps, message, **kwargs):
        def steps_on():
            for _ in range(steps):
                self.step(**kwargs)

        with pytest.raises(vpeft.UserError, match=message) as error:
            steps_on()
        assert "\n" not in str(error.value)


def test_all_has_moved_and_nothing_more_is_looked_at(monkeypatch):
    run = Run()
    for _ in range(16):  # LoRA's down moves only after its up
        assert run.step() is None
    assert not run.movement.waiting
    assert run.movement.steps <= 8
    monkeypatch.setattr(run.movement, "_compare", None)
    assert run.step() is None
    assert run.step(end=True) is None


def test_iterations_without_a_step_are_no_steps():
    run = Run()
    for i in range(16):  # accumulated gradients, steps skipped by a loss scaler
        run.step(act=i % 8 == 7)
    assert run.movement.iterations >= 8
    assert run.movement.steps <= 2


def test_a_rate_that_warms_up_from_zero():
    run = Run()
    schedule = torch.optim.lr_scheduler.LambdaLR(run.optimiser, lambda i: max(0, i - 5) / 10)
    for _ in range(24):
        assert run.step() is None
        schedule.step()
    assert not run.movement.waiting


def test_something_was_frozen_after_the_report():
    run = Run()
    run.model.blocks[1].requires_grad_(False)
    run.refused(8, r"blocks\.1\.peft\.lora\.\S+ \(and 3 more\) was reported as trained, and was frozen after training")


def test_something_is_in_no_optimiser():
    run = Run(
        groups=lambda model: [p for name, p in model.named_parameters() if p.requires_grad and "blocks.2" not in name]
    )
    run.refused(8, r"blocks\.2\.peft\.lora\.\S+ \(and 3 more\) was reported as trained, and is in no optimiser")


def test_a_learning_rate_of_zero():
    def groups(model):
        head = {id(p) for p in model.head.parameters()}
        body = [p for p in model.parameters() if p.requires_grad and id(p) not in head]
        return [{"params": body}, {"params": list(model.head.parameters()), "lr": 0.0}]

    Run(groups=groups).refused(8, r"head\.weight \(and 1 more\) was reported as trained, and has the learning rate 0")


def test_something_that_the_output_does_not_depend_on():
    run = Run()
    site = run.model.peft_adaptation.host.blocks[0].sites["qkv"]
    for entry in site.entries:
        entry.active = False
    run.refused(
        PATIENCE + 4, rf"blocks\.0\.peft\.lora.* has not moved in {PATIENCE} steps: the model's output does not"
    )


def test_a_short_run_ends_with_a_word_and_a_longer_one_with_an_error():
    def still(steps):
        run = Run()
        for entry in run.model.peft_adaptation.host.blocks[0].sites["qkv"].entries:
            entry.active = False
        for _ in range(steps):
            assert run.step() is None
        return run.movement.look([run.optimiser], end=True)

    assert "blocks.0.peft.lora" in still(3)
    with pytest.raises(vpeft.UserError, match=r"has not moved in 7 steps"):
        still(7)


def test_outside_the_backbone_it_is_only_said():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = build(TIMM, dtype=torch.float32, num_classes=0)
            self.head, self.spare = nn.Linear(64, 2), nn.Linear(64, 2)

        def forward_features(self, x):
            return self.backbone.forward_features(x)

    run = Run(Model())
    said = [line for _ in range(PATIENCE + 4) if (line := run.step())]
    assert len(said) == 1
    assert said[0].startswith("spare.weight, spare.bias was reported as trained and has not moved in 50 steps")


def test_nothing_moves_at_all():
    run = Run()
    run.movement.iterations = LONGEST - 1
    run.refused(1, f"nothing has moved in {LONGEST} iterations, and 14 tensors", act=False)
    run = Run()
    for _ in range(6):
        run.step(act=False)
    with pytest.raises(vpeft.UserError, match="nothing has moved in 6 iterations"):
        run.movement.look([run.optimiser], end=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_one_changed_value_of_a_large_tensor_is_seen(dtype):
    model = vpeft.attach(build(TIMM, dtype=dtype), "Full")
    movement = Movement(model)
    with torch.no_grad():
        for param in model.parameters():
            value = param.view(-1)[-1]
            value.copy_(torch.nextafter(value, value + 1) if dtype == torch.float64 else value + 1)
    movement.look([])
    assert not movement.waiting


def test_what_acts_on_tokens_that_the_head_does_not_read_is_said():
    model = vpeft.attach(build(TIMM, dtype=torch.float32), "Mona").train()
    movement, images = Movement(model), torch.randn(2, 3, 32, 32)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    said = []
    for _ in range(PATIENCE + 4):
        optimiser.zero_grad()
        model(images).square().mean().backward()
        optimiser.step()
        if line := movement.look([optimiser]):
            said.append(line)
    (line,) = said
    last = len(model.blocks) - 1
    assert line.startswith(f"blocks.{last}.peft.mona.")
    assert "the head reads the class token alone" in line


def test_what_stands_still_below_is_refused_all_the_same():
    model = vpeft.attach(build(TIMM, dtype=torch.float32), "Mona").train()
    movement, images = Movement(model), torch.randn(2, 3, 32, 32)
    for site in model.peft_adaptation.host.blocks[0].sites.values():
        for entry in site.entries:
            entry.active = False
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)

    def steps_on():
        for _ in range(PATIENCE + 4):
            optimiser.zero_grad()
            model(images).square().mean().backward()
            optimiser.step()
            movement.look([optimiser])

    with pytest.raises(vpeft.UserError, match=r"^blocks\.0\.peft\.mona\..*the model's output does not depend on it"):
        steps_on()
