"""Telling methods of the steps of the optimiser, and what they keep between them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.options.on_host import OnHost
from vpeft.core.contract.training import TrainingStep
from vpeft.errors import UserError

#: Where a run's checkpoint holds the training state of methods.
STATE = "peft_training"


def after_steps(
    model: nn.Module, optimisers: Sequence[Optimizer], now: Callable[[Optimizer], TrainingStep]
) -> list[Callable[[], None]]:
    """Let methods that follow the steps of training act after each, while its gradients are still there.

    Args:
        model: The model.
        optimisers: The optimisers of the run; that which holds a method's tensors makes its steps.
        now: Which step an optimiser has just made.

    Returns:
        What ends it, one for each hook.

    Raises:
        UserError: No optimiser holds a tensor of such a method.
    """
    ends = []
    for adaptation in find_adaptations(model).values():
        for key, one in adaptation.on_host.items():
            if not one.method.follows_steps:
                continue
            own = {id(p) for name, module in adaptation.peft_items() if name == key for p in module.parameters()}
            found = [o for o in optimisers if any(id(p) in own for group in o.param_groups for p in group["params"])]
            if not found:
                raise UserError(
                    f"{one.method.registered_name()} follows the steps of the optimizer, and none that was given holds "
                    "its tensors: make the optimizer behind vpeft.attach, of what asks for a gradient."
                )
            ends += [o.register_step_post_hook(functools.partial(_act, one, now)).remove for o in found]
    return ends


def _act(method: OnHost, now: Callable[[Optimizer], TrainingStep], optimiser: Optimizer, *_: Any) -> None:
    method.after_step(now(optimiser))


def training_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers of PEFT modules that are no part of the adapter (``persistent=False``), by name."""
    for prefix, adaptation in find_adaptations(model).items():
        wanted = {id(part) for module in adaptation.peft_modules() for part in module.modules()}
        for name, part in adaptation.host.backbone.named_modules():
            for key in sorted(part._non_persistent_buffers_set) if id(part) in wanted else ():
                if part._buffers[key] is not None:
                    yield f"{prefix}{name}.{key}", part._buffers[key]


def keep_training_state(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Put what methods keep between steps into a run's checkpoint, where there is anything."""
    if state := {name: buffer.detach().clone() for name, buffer in training_buffers(model)}:
        checkpoint[STATE] = state


def take_training_state(model: nn.Module, checkpoint: Mapping[str, Any], where: str) -> None:
    """Go on with what methods kept between steps.

    Raises:
        UserError: The checkpoint lacks it.
    """
    state = checkpoint.get(STATE, {})
    for name, buffer in training_buffers(model):
        if name not in state or state[name].shape != buffer.shape:
            raise UserError(f"{where} lacks {name}, without which training cannot go on: start from it with load_from.")
        buffer.copy_(state[name])
