"""Losses that methods add to the task's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.backbones.wrappers import named_modules
from vpeft.core.contract.method import Method
from vpeft.core.contract.training import TrainingPass
from vpeft.errors import UserError


class MethodLosses:
    """A model's ``loss`` with the losses of its methods; an object, so that it survives ``deepcopy``."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.seen = model, []
        if any(method.reads_scores for method in adding(model)):
            last_linear(model).register_forward_hook(self.look)

    def look(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.seen = [output]

    def once(self, *args, **kwargs) -> tuple[dict[str, Tensor], Tensor | None]:
        """The task's losses, and the scores."""
        losses = type(self.model).loss(self.model, *args, **kwargs)
        return losses, self.seen.pop() if self.seen else None

    def __call__(self, *args, **kwargs) -> dict[str, Tensor]:
        losses, scores = self.once(*args, **kwargs)
        for adaptation in find_adaptations(self.model).values():
            for one in adaptation.on_host.values():
                if one.method.adds_losses:
                    losses.update(one.losses(TrainingPass(scores, lambda: self.once(*args, **kwargs))))
        return losses


def adding(model: nn.Module) -> list[Method]:
    """The methods that add losses."""
    every = (method for one in find_adaptations(model).values() for method in one.methods.values())
    return [method for method in every if method.adds_losses]


def add_losses(model: nn.Module) -> None:
    """Let ``model.loss`` return the methods' losses too; nothing is changed where no method has any."""
    if not adding(model) or isinstance(getattr(model, "loss", None), MethodLosses):
        return
    if not hasattr(type(model), "loss"):
        raise UserError(f"{type(model).__name__} has no loss() that a method's own losses could be added to.")
    model.loss = MethodLosses(model)


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
