"""How large a method's change is: of what passes each of its places, and of each weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.contributions import Place, contributions, resizing
from vpeft.core.adaptation.find import find_adaptation
from vpeft.extension.interpolation.wise import Interpolation


@dataclass(frozen=True)
class Size:
    """The relative size of one change.

    Attributes:
        where: Site, or name of a weight inside its block.
        block: Index of the block; None outside the blocks.
        value: ``|change| / |what it changes|``, Frobenius norms over all samples.
    """

    where: str
    block: int | None
    value: float


def contribution_sizes(model: nn.Module, batches: Iterable[Any], run: Callable[[Any], Any]) -> list[Size]:
    """The size of what a method adds at each place, relative to what passes there without it.

    Everything before the place is the tuned model. Where the number of tokens is changed it is the whole operation
    around it, attention or block, without and with the method (:mod:`vpeft.core.adaptation.contributions`).

    Args:
        model: The adapted model, in eval mode.
        batches: Inputs.
        run: Runs the model on one of them.
    """
    adaptation, batches = find_adaptation(model), list(batches)
    sums: dict[Place, list[float]] = {}

    def measure(place: Place, plain: Tensor, tuned: Tensor) -> Tensor:
        one = sums.setdefault(place, [0.0, 0.0])
        one[0] += float((tuned - plain).double().square().sum())
        one[1] += float(plain.double().square().sum())
        return tuned

    with torch.no_grad():
        enclosed = resizing(adaptation, lambda: run(batches[0]))
        with contributions(adaptation, measure, enclosed):
            for batch in batches:
                run(batch)
    return [
        Size(f"{place.site} ({place.how if place.how == 'operation' else place.placement})", place.block, ratio(*both))
        for place, both in sums.items()
    ]


def weight_sizes(path: Interpolation) -> list[Size]:
    """The size of the change of every weight that a method trains or merges into, relative to the weight."""
    host = find_adaptation(path.model).host
    found = []
    for param in host.parameters():
        if param.name in path.end:
            start, end = path.start[param.name].double(), path.end[param.name].double().cpu()
            inside = f"{param.site}.{param.role}" if param.site and param.role in ("weight", "bias") else param.role
            where = f"{param.site} {param.role}" if param.site and param.role.startswith("norm") else inside
            change = float((end - start.cpu()).square().sum()), float(start.square().sum())
            found.append(Size(where, None if param.block is None else param.block.index, ratio(*change)))
    return found


def ratio(change: float, whole: float) -> float:
    """Square root of the ratio of two sums of squares; infinite where something is added to nothing."""
    if whole == 0:
        return float("inf") if change else 0.0
    return (change / whole) ** 0.5
