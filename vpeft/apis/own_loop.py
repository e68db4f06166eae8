"""Training in a loop of one's own: what a run of mmengine's Runner does by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.training.losses import OwnLoss
from vpeft.core.adaptation.training.parameter_groups import grouped
from vpeft.core.adaptation.training.selection_data import training_data
from vpeft.core.adaptation.training.steps import after_steps
from vpeft.core.adaptation.training.unheard import heard
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.contract.training import TrainingStep
from vpeft.errors import UserError


def parameter_groups(model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """What is trained, in groups for an optimizer of torch, as a run groups it.

    Without weight decay where decay has no meaning (vectors, norms, what methods exempt), and at the
    learning rates that methods ask for (LoRA+, ViT-Split):
    ``AdamW(vpeft.parameter_groups(model, lr=1e-3, weight_decay=0.05))``.

    Args:
        model: A model with a method attached.
        lr: The learning rate.
        weight_decay: Of what decays.

    Raises:
        UserError: Nothing asks for a gradient.
    """
    plain = unwrap(model)
    alone = [{"params": [parameter]} for parameter in plain.parameters() if parameter.requires_grad]
    if not alone:
        raise UserError("parameter_groups: nothing of this model asks for a gradient.")
    heard(model, "rates")
    return [{"lr": lr, "weight_decay": weight_decay, **group} for group in grouped(plain, alone, lr)]


def training_loss(model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> OwnLoss:
    """The loss of a training step with what methods add to the task's (AdaLoRA, CoLin, DyT, ``consistency=``).

    ``loss = vpeft.training_loss(model, cross_entropy)`` once, behind :func:`attach`; then ``loss(images, targets)``
    runs the model, as often as the methods ask, and gives the sum. Without such a method, and in eval mode, it is
    ``criterion(model(images), targets)``. ``loss.parts`` are its terms of the last call, by name.

    Args:
        model: A model with a method attached that gives class scores ``(B, C)``, or an object with ``logits``; wrapped
            for several processes if it will be.
        criterion: Gives a loss of scores and targets, as ``torch.nn.functional.cross_entropy``.

    Raises:
        UserError: Nothing is attached, or ``consistency`` is of the kind that keeps the scores of every image by its
            name, which only the data of runs say.
    """
    if not find_adaptations(model):
        raise UserError("training_loss: no method is attached to this model: vpeft.attach(model, ...) before.")
    heard(model, "losses")
    return OwnLoss(model, criterion)


def follow_steps(
    model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], total: int, done: int = 0
) -> Callable[[], None]:
    """Let methods that go by the steps of training (AdaLoRA) act after each, in a loop of one's own.

    To be called once, behind :func:`attach` and before the first step; a run of mmengine's Runner does so by itself.
    Methods read the gradients of the step: they are set to zero before ``backward``, and not inside ``step``. Without
    such a method nothing is changed.

    Args:
        model: A model with a method attached.
        optimizer: The optimizer of the loop, or several; that which holds a method's tensors makes its steps.
        total: Steps that the whole training makes: steps of an optimizer, of which there may be fewer than batches.
        done: Steps that were made before, where a training goes on. What AdaLoRA has averaged over them is no part of
            ``model.state_dict()`` and begins anew.

    Returns:
        A function that ends it.

    Raises:
        UserError: No optimizer holds such a method's tensors, or one is none of torch's, or the numbers cannot be.
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    if wrong := [type(one).__name__ for one in optimizers if not isinstance(one, Optimizer)]:
        raise UserError(f"follow_steps: {wrong[0]} is no torch.optim.Optimizer: give the one that makes the steps.")
    if not 0 <= done < total:
        raise UserError(f"follow_steps: total={total} and done={done}: steps of the whole training, and those before.")
    made: Counter[Optimizer] = Counter(dict.fromkeys(optimizers, done))

    def now(one: Optimizer) -> TrainingStep:
        return TrainingStep(min(made[one], total), total)

    counting = [one.register_step_post_hook(lambda one, *_: made.update([one])).remove for one in optimizers]
    try:
        ends = [*counting, *after_steps(model, optimizers, now)]  # counted first
    except UserError:
        _call_all(counting)
        raise
    heard(model, "steps")
    return partial(_call_all, ends)


def _call_all(functions: Iterable[Callable[[], None]]) -> None:
    for one in functions:
        one()


def learn(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
    """Let the methods select from training data what they have to before training (SCT, GPS), in place.

    ``tools/train.py`` does it by itself. Without it such a method trains the first channels or entries.

    Args:
        model: A model with a method attached.
        batches: Pairs of images ``(B, 3, H, W)``, preprocessed, without augmentation, and labels ``(B,)``.
    """
    found = find_adaptations(model)
    batches = list(batches) if len(found) > 1 else batches  # each passes through them
    for adaptation in found.values():
        adaptation.learn(training_data(model, batches))
    return model
