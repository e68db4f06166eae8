"""What methods ask of a loop of one's own; a loop that trains without it is told so, once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from mmengine.logging import print_log
from torch import nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.find import find_adaptations


def _modules(adaptation: Adaptation, key: str) -> Iterator[nn.Module]:
    """Everything that a method has placed."""
    return (part for name, module in adaptation.peft_items() if name == key for part in module.modules())


#: Passes of training that a loop may make before: checks and first looks.
PATIENCE = 3
#: What is asked for: which methods do, and what to do about it.
ASKED: dict[str, tuple[Callable[[Adaptation, str], bool], str]] = {
    "losses": (
        lambda adaptation, key: adaptation.methods[key].adds_losses,
        "adds losses to the task's: loss = vpeft.training_loss(model, criterion), then loss(images, targets)",
    ),
    "steps": (
        lambda adaptation, key: adaptation.methods[key].follows_steps,
        "goes by the steps of training: vpeft.follow_steps(model, optimizer, total) before the first",
    ),
    "rates": (
        lambda adaptation, key: any(getattr(m, "lr_factors", {}) for m in _modules(adaptation, key)),
        "learns at several rates: give the optimizer vpeft.parameter_groups(model, lr)",
    ),
    "selection": (
        lambda adaptation, key: any(not getattr(m, "learned", True) for m in _modules(adaptation, key)),
        "selects from the training data first: vpeft.learn(model, batches) before training",
    ),
}


class Unheard:
    """Counts the passes of training of one adaptation, and says what was not asked for; survives copies and pickle."""

    def __init__(self) -> None:
        self.heard: set[str] = set()
        self.passes = 0

    def __call__(self, adaptation: Adaptation) -> None:
        self.passes += 1
        if self.passes != PATIENCE + 1:
            return
        for what, (asks, advice) in ASKED.items():
            asking = [m.registered_name() for key, m in adaptation.methods.items() if asks(adaptation, key)]
            if asking and what not in self.heard:
                text = f"{', '.join(asking)} {advice} (docs/start/own_loop.md). This loop trains without."
                print_log(text, logger="current", level=logging.WARNING)


def listen(model: nn.Module) -> None:
    """Look from now on whether the loop that trains a model does what its methods ask for."""
    for adaptation in find_adaptations(model).values():
        if any(asks(adaptation, key) for asks, _ in ASKED.values() for key in adaptation.methods):
            passes = adaptation.host.passes
            passes.unheard = passes.unheard or Unheard()


def heard(model: nn.Module, what: str) -> None:
    """One of :data:`ASKED` is done for a model."""
    for adaptation in find_adaptations(model).values():
        if adaptation.host.passes.unheard is not None:
            adaptation.host.passes.unheard.heard.add(what)
