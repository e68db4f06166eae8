"""The adaptation of a model."""

from __future__ import annotations

from torch import nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.errors import UserError


def find_adaptation(model: nn.Module) -> Adaptation:
    """The adaptation on a model or on one of its submodules.

    Raises:
        UserError: Nothing is attached.
    """
    adaptation = get_adaptation(model)
    if adaptation is None:
        raise UserError(f"no method is attached to this {type(model).__name__}: call vpeft.attach(model, cfg) first.")
    return adaptation


def get_adaptation(model: nn.Module) -> Adaptation | None:
    """The adaptation on a model, or None."""
    return next((m.peft_adaptation for m in model.modules() if hasattr(m, "peft_adaptation")), None)


def backbone_prefix(model: nn.Module) -> str:
    """Prefix of the adapted backbone's keys inside ``model`` (empty where the model is the backbone)."""
    name = next(name for name, module in model.named_modules() if hasattr(module, "peft_adaptation"))
    return f"{name}." if name else ""
