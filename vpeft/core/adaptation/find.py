"""The adaptations of a model."""

from __future__ import annotations

from torch import nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.backbones.wrappers import named_modules
from vpeft.core.contract.method import Method
from vpeft.errors import UserError


def adaptations(model: nn.Module) -> dict[str, Adaptation]:
    """Every adaptation of a model, by the prefix of its backbone's keys (empty where the model is the backbone).

    Wrappers are looked through (:mod:`vpeft.core.adaptation.wrappers`), and prefixes are those of the plain model.
    """
    return {
        f"{name}." if name else "": module.peft_adaptation
        for name, module in named_modules(model)
        if "peft_adaptation" in vars(module)
    }


def find_adaptations(model: nn.Module) -> dict[str, Adaptation]:
    """The same, at least one.

    Raises:
        UserError: Nothing is attached.
    """
    found = adaptations(model)
    if not found:
        raise UserError(f"no method is attached to this {type(model).__name__}: call vpeft.attach(model, cfg) first.")
    return found


def find_adaptation(model: nn.Module) -> Adaptation:
    """The one adaptation of a model.

    Raises:
        UserError: Nothing is attached, or methods are attached to several backbones.
    """
    find_adaptations(model)
    return get_adaptation(model)


def get_adaptation(model: nn.Module) -> Adaptation | None:
    """The one adaptation of a model, or None.

    Raises:
        UserError: Methods are attached to several backbones.
    """
    return _single(model)[1]


def attached_methods(model: nn.Module) -> list[Method]:
    """The methods on the one adapted backbone of a model; none where nothing is attached."""
    adaptation = get_adaptation(model)
    return [] if adaptation is None else list(adaptation.methods.values())


def backbone_prefix(model: nn.Module) -> str:
    """Prefix of the adapted backbone's keys inside ``model`` (empty where the model is the backbone).

    Raises:
        UserError: Nothing is attached, or methods are attached to several backbones.
    """
    find_adaptations(model)
    return _single(model)[0]


def _single(model: nn.Module) -> tuple[str, Adaptation | None]:
    found = adaptations(model)
    if len(found) > 1:
        names = ", ".join(prefix.removesuffix(".") for prefix in found)
        raise UserError(
            f"methods are attached to {len(found)} backbones of this {type(model).__name__}: {names}; "
            "what was asked for looks at one: give it that backbone instead of the model."
        )
    return next(iter(found.items()), ("", None))
