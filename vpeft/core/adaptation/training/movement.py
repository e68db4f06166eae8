"""Does what is reported as trained move?

A tensor that is counted as trained and stands still makes every number of a run a wrong one: something froze it after
the report, no optimiser holds it, its learning rate is 0, or the model's output does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.options.unread import reads_prefix_alone
from vpeft.core.backbones.wrappers import named_modules
from vpeft.errors import UserError

#: Steps, in which something has moved, after which a tensor that is known not to be trained stops the run.
SURE = 5
#: Steps after which any tensor of a backbone that stands still does. Methods that sample their parts need many.
PATIENCE = 50
#: Iterations without any movement: rates that warm up from zero and skipped mixed-precision steps take some.
LONGEST = 1000

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Movement:
    """Watches the trained tensors of a model until each has moved; costs nothing from then on.

    Attributes:
        waiting: The tensors that have not moved yet, by name, with the sum of their bits at the start.
        steps: Iterations in which something has moved.
    """

    def __init__(self, model: nn.Module) -> None:
        self.inside = tuple(find_adaptations(model))
        self.unread = {
            id(param)
            for one in find_adaptations(model).values()
            if reads_prefix_alone(one.host)
            for param in one.host.blocks[-1].module.parameters()
        }
        params = {
            f"{name}.{key}" if name else key: param
            for name, module in named_modules(model)
            for key, param in module._parameters.items()
            if param is not None and param.requires_grad and param.numel()
        }
        self.waiting = dict(zip(params, zip(params.values(), _sums(params.values()), strict=True), strict=True))
        self.moving: tuple[Tensor, int] | None = None
        self.iterations = self.steps = 0

    def look(self, optimisers: Iterable[Optimizer], end: bool = False) -> str | None:
        """Look again, after an iteration.

        Args:
            optimisers: The optimisers of the run.
            end: Training ends with this look.

        Returns:
            What is to be said at the end of a run that was too short to tell, or of what stands still outside the
            adapted backbones, or acts on tokens that the head does not read; None otherwise.

        Raises:
            UserError: Something that was reported as trained stands still.
        """
        if not self.waiting or (end and not self.iterations):
            return None
        self.iterations += 0 if end else 1
        self._compare(end)
        known = self._known(list(optimisers))
        if known and (self.steps >= SURE or end):
            name, reason = next(iter(known.items()))
            more = f" (and {len(known) - 1} more)" if len(known) > 1 else ""
            raise UserError(f"{name}{more} was reported as trained, and {reason}.")
        if not self.steps and (self.iterations >= LONGEST or (end and self.iterations > SURE)):
            raise UserError(
                f"nothing has moved in {self.iterations} iterations, and {len(self.waiting)} tensors were reported as "
                "trained: look at the learning rate and its schedule."
            )
        if not self.waiting or not (end or self.steps >= PATIENCE):
            return None
        unread = [name for name, (param, _) in self.waiting.items() if id(param) in self.unread]
        still = [name for name in self.waiting if name.startswith(self.inside) and name not in unread]
        why = "the model's output does not depend on it, or its learning rate is too small for its precision"
        if len(unread) == len(self.waiting):
            why = "it acts on the map's tokens in the last block, and the head reads the class token alone"
        text = (
            f"{_listed(still or list(self.waiting))} was reported as trained and has not moved in {self.steps} steps: "
            f"{why}"
        )
        self.waiting = {}
        if still and self.steps > SURE:
            raise UserError(f"{text}.")
        return text

    def _compare(self, end: bool) -> None:
        names, tensors = list(self.waiting), [param for param, _ in self.waiting.values()]
        if self.moving is not None:
            tensors.append(self.moving[0])
        sums = _sums(tensors)
        moved = [name for name, now in zip(names, sums, strict=False) if now != self.waiting[name][1]]
        again = self.moving is not None and sums[-1] != self.moving[1]
        if not end and (moved or again):
            self.steps += 1
        for name in moved:
            param, _ = self.waiting.pop(name)
            if self.moving is None or param.numel() < self.moving[0].numel():
                self.moving = (param, sums[names.index(name)])
                again = False
        if again:
            self.moving = (self.moving[0], sums[-1])

    def _known(self, optimisers: list[Optimizer]) -> dict[str, str]:
        """Why tensors that have not moved cannot move, by name."""
        rates = {
            id(param): max(group["lr"], group.get("initial_lr", group["lr"]))
            for optimiser in optimisers
            for group in optimiser.param_groups
            for param in group["params"]
        }
        found = {}
        for name, (param, _) in self.waiting.items():
            if not param.requires_grad:
                found[name] = "was frozen after training began"
            elif id(param) not in rates:
                found[name] = "is in no optimiser: build it after attaching"
            elif rates[id(param)] == 0:
                found[name] = (
                    "has the learning rate 0 (paramwise_cfg): freeze it (requires_grad=False) or give it a rate"
                )
        return found


def _sums(params: Iterable[Tensor]) -> list[int]:
    """Sums of the tensors' bits: whatever changes a value changes its sum, however large the tensor is."""
    sums = [p.detach().contiguous().view(_BITS[p.element_size()]).sum(dtype=torch.int64) for p in params]
    return [int(value) for value in torch.stack(sums).tolist()] if sums else []


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
