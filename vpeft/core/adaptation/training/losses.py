"""Losses that methods add to the task's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.training.consistency import ConsistencyLoss, consistency_loss, noisy_methods
from vpeft.core.backbones.wrappers import named_modules
from vpeft.core.contract.method import Method
from vpeft.core.contract.training import TrainingPass
from vpeft.errors import UserError

#: Key of what a run's checkpoint holds of them.
CONSISTENCY = "consistency"


class MethodLosses:
    """A model's ``loss`` with the losses of its methods; an object, so that it survives ``deepcopy``."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.seen, self.consistency = model, [], consistency_loss(model)
        if self.consistency is not None or any(method.reads_scores for method in adding(model)):
            last_linear(model).register_forward_hook(self.look)

    def look(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        scores = output if self.consistency is None else self.consistency.head(output)
        self.seen = [scores]
        return scores

    def once(self, *args, **kwargs) -> tuple[dict[str, Tensor], Tensor | None]:
        """The task's losses, and the scores."""
        losses = type(self.model).loss(self.model, *args, **kwargs)
        return losses, self.seen.pop() if self.seen else None

    def __call__(self, *args, **kwargs) -> dict[str, Tensor]:
        if self.consistency is None:
            losses, scores = self.once(*args, **kwargs)
        else:
            losses, scores = self._consistent(*args, **kwargs)
        return _with_own(losses, self.model, TrainingPass(scores, lambda: self.once(*args, **kwargs)))

    def _consistent(self, inputs: Any, data_samples: Any = None, **kwargs) -> tuple[dict[str, Tensor], Tensor]:
        return self.consistency(lambda x, y: self.once(x, y, **kwargs), inputs, data_samples)


class OwnLoss:
    """The loss of a loop of one's own, with the losses of the model's methods (:func:`vpeft.training_loss`).

    Attributes:
        parts: Its terms of the last call, by name.
    """

    def __init__(self, model: nn.Module, criterion: Callable[[Tensor, Any], Tensor]) -> None:
        self.model, self.criterion, self.consistency = model, criterion, consistency_loss(model)
        self.parts: dict[str, Tensor] = {}
        if self.consistency is not None and self.consistency.made.kind == "fast":
            raise UserError(
                "consistency kind='fast' keeps the scores of every image by its name, which only the data of runs say: "
                "take kind='full' or 'lazy', or a run."
            )

    def once(self, inputs: Any, targets: Any) -> tuple[dict[str, Tensor], Tensor]:
        """The criterion's loss, and the scores."""
        scores = self._scores(self.model(inputs))
        scores = scores if self.consistency is None else self.consistency.head(scores)
        return {"loss": self.criterion(scores, targets)}, scores

    def __call__(self, inputs: Any, targets: Any) -> Tensor:
        if not self.model.training:
            self.parts = self.once(inputs, targets)[0]
        else:
            once = self.once if self.consistency is None else partial(self.consistency, self.once)
            losses, scores = once(inputs, targets)
            self.parts = _with_own(losses, self.model, TrainingPass(scores, lambda: self.once(inputs, targets)))
        return sum(self.parts.values())

    def _scores(self, output: Any) -> Tensor:
        scores = getattr(output, "logits", output)
        if not isinstance(scores, Tensor):
            raise UserError(
                f"{type(self.model).__name__} gives {type(output).__name__} for images: wrap it, so that it gives the "
                "scores (B, C) alone."
            )
        return scores


def _with_own(losses: dict[str, Tensor], model: nn.Module, training: TrainingPass) -> dict[str, Tensor]:
    """The task's losses and those that the methods of a model add for the pass that has just run; none takes another's
    name, of several methods or backbones neither.
    """
    total = dict(losses)
    for one in (one for adaptation in find_adaptations(model).values() for one in adaptation.on_host.values()):
        for name, value in (one.losses(training) if one.method.adds_losses else {}).items():
            names = (name, *(f"{name}_{number}" for number in range(2, len(total) + 3)))
            total[next(free for free in names if free not in total)] = value
    return total


def adding(model: nn.Module) -> list[Method]:
    """The methods that add losses."""
    every = (method for one in find_adaptations(model).values() for method in one.methods.values())
    return [method for method in every if method.adds_losses]


def add_losses(model: nn.Module) -> None:
    """Let ``model.loss`` return the methods' losses too; nothing is changed where no method has any."""
    if not (adding(model) or noisy_methods(model)) or isinstance(getattr(model, "loss", None), MethodLosses):
        return
    if not hasattr(type(model), "loss"):
        raise UserError(f"{type(model).__name__} has no loss() that a method's own losses could be added to.")
    model.loss = MethodLosses(model)


def consistency_of(model: nn.Module) -> ConsistencyLoss | None:
    """The losses of its methods' noise, once :func:`add_losses` has added them; None without."""
    return getattr(getattr(model, "loss", None), "consistency", None)


def last_linear(model: nn.Module) -> nn.Module:
    """The last linear outside the adapted backbones: that which gives the scores.

    Raises:
        UserError: There is none.
    """
    inside = tuple(find_adaptations(model))
    found = [m for name, m in named_modules(model) if isinstance(m, nn.Linear) and not name.startswith(inside)]
    if not found:
        raise UserError(f"{type(model).__name__} has no linear head outside its backbone, which a method's loss reads.")
    return found[-1]
