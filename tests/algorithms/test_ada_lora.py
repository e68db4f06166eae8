"""AdaLoRA's choice of triplets, step by step, against a plain re-statement of 2303.10512 (Algorithm 1)."""

import pytest
import torch
from support.hosts import build, inputs, loss, tokens

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.contract.training import TrainingPass

VIT = "timm.VisionTransformer"
RATE, TOTAL = 0.5, 20
OPTIONS = {"rank": 6, "target_rank": 2, "warmup": 0.1, "final": 0.4, "interval": 2, "beta1": 0.8, "beta2": 0.7}


class PlainChoice:
    """Scores and choice with lists and loops; nothing of the package takes part."""

    def __init__(self):
        self.importance, self.spread, self.budgets = {}, {}, []

    def step(self, number, params, grads, targets):
        """Parameters by name after a step of gradient descent, before anything is pruned, in place."""
        first, last, rank, target_rank = 2, 12, 6, 2  # a tenth and six tenths of 20 steps
        if number < last:
            for name, grad in grads.items():
                sensitivity = (params[name] * grad).abs()
                old, spread = self.importance.get(name, 0 * sensitivity), self.spread.get(name, 0 * sensitivity)
                self.importance[name] = 0.8 * old + 0.2 * sensitivity
                self.spread[name] = 0.7 * spread + 0.3 * (sensitivity - self.importance[name]).abs()
        if number <= first or (number <= last and number % 2):
            return
        share = max(0.0, 1 - (number - first) / (last - first)) ** 3
        budget = int(target_rank * len(targets) + (rank - target_rank) * len(targets) * share)
        self.budgets.append(budget)
        scores = []
        for prefix, target in targets:
            score = {
                p: self.importance[f"{prefix}.{p}.{target}"] * self.spread[f"{prefix}.{p}.{target}"] for p in PARTS
            }
            for i in range(rank):
                total = score["values"][i] + score["left"][:, i].mean() + score["right"][i].mean()
                scores.append((total.item(), prefix, target, i))
        for _, prefix, target, i in sorted(scores)[: len(scores) - budget]:
            params[f"{prefix}.values.{target}"][i] = 0.0


PARTS = ("left", "values", "right")


def own(model):
    return {name: p for name, p in model.named_parameters() if ".peft." in name}


def test_every_step_is_that_of_the_plain_algorithm():
    torch.manual_seed(0)
    model = vpeft.attach(build(VIT), {"type": "AdaLoRA", **OPTIONS}).eval()
    optimiser = torch.optim.SGD(own(model).values(), lr=RATE)
    end = vpeft.follow_steps(model, optimiser, TOTAL)
    targets = sorted({(name.rsplit(".", 2)[0], name[-1]) for name in own(model)})
    plain, pruned = PlainChoice(), []
    for number in range(1, TOTAL + 1):
        optimiser.zero_grad()
        loss(tokens(model, inputs(VIT, dtype=torch.float64, seed=number))).backward()
        grads = {name: p.grad.clone() for name, p in own(model).items()}
        expected = {name: p.detach() - RATE * grads[name] for name, p in own(model).items()}
        optimiser.step()
        plain.step(number, expected, grads, targets)
        for name, param in own(model).items():
            torch.testing.assert_close(param.detach(), expected[name], rtol=1e-12, atol=1e-15)
        pruned.append(sum(int((p == 0).sum()) for name, p in own(model).items() if ".values." in name))
    assert plain.budgets == sorted(plain.budgets, reverse=True)
    assert plain.budgets[-1] == 2 * len(targets)
    assert pruned[0] == 0
    assert pruned[-1] == 4 * len(targets)
    kept = [b for name, b in model.named_buffers() if ".kept_" in name]
    assert len(kept) == len(targets)
    assert sum(int(one.sum()) for one in kept) == 2 * len(targets)
    assert len({int(one.sum()) for one in kept}) > 1  # not the same number everywhere
    end()
    before = {name: p.detach().clone() for name, p in own(model).items()}
    optimiser.step()
    moved = {name for name, p in own(model).items() if not torch.equal(p, before[name])}
    assert any(".values." in name for name in moved)  # nobody sets them to zero any more


def test_the_loss_keeps_the_vectors_orthogonal():
    model = vpeft.attach(build(VIT), {"type": "AdaLoRA", "orthogonality": 0.3})
    adaptation = get_adaptation(model)
    norms = []
    for name, p in own(model).items():
        if ".values." not in name:
            gram = p.T @ p if ".left." in name else p @ p.T
            norms.append(((gram - torch.eye(len(gram), dtype=p.dtype)) ** 2).sum().sqrt())
    found = adaptation.on_host["adalora"].losses(TrainingPass(None, None))
    torch.testing.assert_close(found["loss_orthogonality"], 0.3 * sum(norms) / len(norms))


def test_means_are_no_part_of_the_adapter(tmp_path):
    model = vpeft.attach(build(VIT), "AdaLoRA")
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    parts = {name.split(".peft.adalora.qkv.")[1] for name in model.state_dict() if ".peft." in name}
    assert parts == {f"{part}.{t}" for part in PARTS for t in "qv"} | {"kept_q", "kept_v"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_rank": 20}, "target_rank=20 is above rank=12"),
        ({"warmup": 0.6, "final": 0.5}, r"warmup=0\.6 and final=0\.5 are more than the whole run"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(vpeft.UserError, match=message):
        vpeft.attach(build(VIT), {"type": "AdaLoRA", **options})
