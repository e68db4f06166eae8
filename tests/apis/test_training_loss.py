"""Loops of one's own take what methods add to the loss, and are told of what they leave out."""

import copy
import logging
import pickle

import pytest
import torch
from mmengine.logging import MMLogger
from support.hosts import build, inputs
from torch import nn
from torch.nn.functional import cross_entropy

import vpeft
from vpeft import UserError
from vpeft.core.adaptation.training.losses import add_losses
from vpeft.core.adaptation.training.parameter_groups import PEFTOptimWrapperConstructor
from vpeft.core.adaptation.training.unheard import PATIENCE

VIT = "timm.VisionTransformer"
NOISY = {"type": "LoRA", "consistency": {"sigma": 0.5, "weight": 2.0}}
ASK_FOR_LOSSES = ["AdaLoRA", "CoLin", "DyT"]


class Classifier(nn.Module):
    """A model as mmengine's Runner trains it, and as a loop of one's own does."""

    def __init__(self, method):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = build(VIT, torch.float32)
        self.classifier = nn.Linear(self.backbone.num_features, 4)
        self.backbone.reset_classifier(0)
        vpeft.attach(self, method)

    def forward(self, images):
        return self.classifier(self.backbone(images))

    def loss(self, images, targets):
        return {"loss": cross_entropy(self(images), targets)}


@pytest.fixture
def batch():
    return inputs(VIT, dtype=torch.float32), torch.arange(len(inputs(VIT))) % 4


@pytest.fixture
def said():
    lines = []
    logger = MMLogger.get_current_instance()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("method", "added"),
    [
        ("LoRA", set()),
        ("AdaLoRA", {"loss_orthogonality"}),
        ("CoLin", {"loss_orthogonality"}),
        ("DyT", {"loss_complete", "loss_rate", "loss_divergence"}),
        (NOISY, {"loss_consistency"}),
    ],
    ids=["LoRA", "AdaLoRA", "CoLin", "DyT", "consistency"],
)
def test_it_is_the_loss_of_a_run(method, added, batch):
    run, own = Classifier(method).train(), Classifier(method).train()
    add_losses(run)
    torch.manual_seed(1)
    want = run.loss(*batch)
    sum(want.values()).backward()
    loss = vpeft.training_loss(own, cross_entropy)
    torch.manual_seed(1)
    total = loss(*batch)
    total.backward()
    assert loss.parts.keys() == want.keys() == {"loss", *added}
    assert all(torch.equal(loss.parts[name], want[name]) for name in want)
    assert total.item() == pytest.approx(sum(value.item() for value in want.values()))
    pairs = [(p.grad, q.grad) for p, q in zip(own.parameters(), run.parameters(), strict=True) if q.grad is not None]
    assert len(pairs) > 4
    assert all(torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in pairs)


def test_losses_of_one_name_are_all_added(batch):
    """Of two methods; two backbones with one method are the same."""
    alone = []
    for method in ("AdaLoRA", "CoLin"):
        loss = vpeft.training_loss(Classifier(method).train(), cross_entropy)
        loss(*batch)
        alone.append(loss.parts["loss_orthogonality"].item())
    both = vpeft.training_loss(Classifier(["AdaLoRA", "CoLin"]).train(), cross_entropy)
    total = both(*batch)
    assert both.parts.keys() == {"loss", "loss_orthogonality", "loss_orthogonality_2"}
    found = [both.parts["loss_orthogonality"].item(), both.parts["loss_orthogonality_2"].item()]
    assert found[1] == pytest.approx(alone[1], rel=0.2)
    assert found[0] == pytest.approx(alone[0], rel=0.2)
    assert total.item() == pytest.approx(both.parts["loss"].item() + sum(found))


@pytest.mark.parametrize("method", ["LoRA", "DyT", NOISY], ids=["LoRA", "DyT", "consistency"])
def test_in_eval_mode_it_is_the_criterion(method, batch):
    model = Classifier(method)
    loss = vpeft.training_loss(model, cross_entropy)
    model.eval()
    with torch.no_grad():
        assert torch.equal(loss(*batch), cross_entropy(model(batch[0]), batch[1]))
    assert loss.parts.keys() == {"loss"}


def test_what_it_cannot_do_is_refused(batch):
    with pytest.raises(UserError, match="no method is attached"):
        vpeft.training_loss(nn.Linear(2, 2), cross_entropy)
    fast = Classifier({**NOISY, "consistency": {**NOISY["consistency"], "kind": "fast"}})
    with pytest.raises(UserError, match="take kind='full' or 'lazy'"):
        vpeft.training_loss(fast, cross_entropy)
    model = Classifier("LoRA").train()
    model.forward = lambda images: [images]
    with pytest.raises(UserError, match="gives list for images"):
        vpeft.training_loss(model, cross_entropy)(*batch)


def steps(model, loss, batch, count=PATIENCE + 2):
    for _ in range(count):
        loss(*batch).backward()


@pytest.mark.parametrize("method", ASK_FOR_LOSSES)
def test_a_loop_without_them_is_told_once(method, batch, said):
    model = Classifier(method).train()
    steps(model, lambda images, targets: cross_entropy(model(images), targets), batch, PATIENCE)
    assert not [line for line in said if "training_loss" in line]
    steps(model, lambda images, targets: cross_entropy(model(images), targets), batch)
    (line,) = [line for line in said if "vpeft.training_loss(model, criterion)" in line]
    assert line.startswith(f"{method} adds losses")


@pytest.mark.parametrize(
    ("method", "advice"),
    [
        ("AdaLoRA", "vpeft.follow_steps"),
        ("SCT", "vpeft.learn"),
        ("GPS", "vpeft.learn"),
        ("LoRA+", "vpeft.parameter_groups"),
    ],
)
def test_steps_and_selection_are_asked_for_as_well(method, advice, batch, said):
    model = Classifier(method).train()
    steps(model, vpeft.training_loss(model, cross_entropy), batch)
    (line,) = said
    assert advice in line


def test_who_does_what_is_asked_hears_nothing(batch, said):
    for method in ("LoRA", "LoRA+", "CoLin", "AdaLoRA", "SCT"):
        model = Classifier(method).train()
        vpeft.follow_steps(model, torch.optim.SGD(vpeft.parameter_groups(model, lr=0.0)), total=9)
        for module in model.modules():
            if hasattr(module, "learned"):
                module.learned.fill_(True)
        steps(model, vpeft.training_loss(model, cross_entropy), batch)
    assert said == []


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_are_told_as_well(how, batch, said):
    model = how(Classifier("CoLin").train())
    steps(model, lambda images, targets: cross_entropy(model(images), targets), batch)
    assert len(said) == 1


def test_neither_eval_nor_a_detached_model_is_training(batch, said):
    model = Classifier("CoLin").eval()
    steps(model, lambda images, targets: cross_entropy(model(images), targets), batch)
    with torch.no_grad():
        for _ in range(PATIENCE + 2):
            model.train()(batch[0])
    vpeft.detach(model.train())
    model.requires_grad_(True)
    steps(model, lambda images, targets: cross_entropy(model(images), targets), batch)
    assert said == []


@pytest.mark.parametrize("method", ["LoRA", "LoRA+", "VPTDeep", "PrefixTuning", "LNTune"])
def test_groups_are_those_of_a_run(method):
    model = Classifier(method)
    cfg = {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.05}}
    theirs = PEFTOptimWrapperConstructor(cfg)(model).optimizer.param_groups
    mine = torch.optim.AdamW(vpeft.parameter_groups(model, lr=1e-3, weight_decay=0.05)).param_groups
    want, found = ({p: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]} for groups in (theirs, mine))
    assert want == found
    assert found.keys() == {p for p in model.parameters() if p.requires_grad}
    assert found[model.classifier.bias] == (1e-3, 0.0)
    assert found[model.classifier.weight] == (1e-3, 0.05)
    ups = {found[p][0] for name, p in model.named_parameters() if ".up." in name}
    assert ups == {"LoRA+": {16e-3}, "LoRA": {1e-3}}.get(method, set())


def test_groups_of_nothing_are_refused():
    model = Classifier("LoRA").requires_grad_(False)
    with pytest.raises(UserError, match="nothing of this model asks for a gradient"):
        vpeft.parameter_groups(model, lr=1e-3)
