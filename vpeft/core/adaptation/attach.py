"""Attaching methods to the host that a model contains."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.find import find_host
from vpeft.core.contract.method import Method
from vpeft.errors import UserError


def attach(model: nn.Module, methods: Sequence[Method]) -> Adaptation:
    """Attach methods to the host that is found in ``model``.

    Raises:
        UserError: Something is attached already, or no host is found.
    """
    if get_adaptation(model) is not None:
        raise UserError("a method is attached to this model already: vpeft.detach(model) first, or give a list.")
    adaptation = Adaptation(find_host(model), methods)
    adaptation.place()
    return adaptation
