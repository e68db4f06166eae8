"""Where a model's weights came from, remembered on the model as long as they are still the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Attribute of a module; as a plain value it goes along where the module is copied or pickled.
_ATTRIBUTE = "vpeft_weights"
_SAMPLES = 64


@dataclass
class RememberedWeights:
    """What is remembered of a model's weights.

    Attributes:
        file: The file, None for a model that was built without weights.
        prefix: The prefix that was given with it.
        samples: Shape and some values of every parameter, by its name.
    """

    file: str | None
    prefix: str | None
    samples: dict[str, tuple[torch.Size, Tensor]]


def remember_weights(model: nn.Module, file: str | None, prefix: str | None = None) -> None:
    """Remember where a model's present weights are from; ``file=None`` says that it has got none."""
    samples = {name: (param.shape, _sample(param)) for name, param in model.named_parameters()}
    setattr(model, _ATTRIBUTE, RememberedWeights(file, prefix, samples))


def remembered_weights(
    modules: Mapping[str, nn.Module], backbone: str, base: Mapping[str, Tensor]
) -> RememberedWeights | None:
    """What is remembered of a backbone in a model, by the module nearest to it that was loaded.

    Args:
        modules: The model's modules by their dotted names, the model itself under the empty one.
        backbone: The backbone's name among them.
        base: The backbone's parameters that are its base, by their names in it.

    Returns:
        That, with the prefix of the backbone in the file; None where nothing is remembered, or the weights have
        changed since (trained, replaced, or loaded in another way).
    """
    parts = backbone.split(".") if backbone else []
    for depth in range(len(parts), -1, -1):
        held = getattr(modules.get(".".join(parts[:depth])), _ATTRIBUTE, None)
        if isinstance(held, RememberedWeights):
            return _of_part(held, ".".join(parts[depth:]), base)
    return None


def _of_part(held: RememberedWeights, inside: str, base: Mapping[str, Tensor]) -> RememberedWeights | None:
    start = f"{inside}." if inside else ""
    both = [(held.samples[start + name], param) for name, param in base.items() if start + name in held.samples]
    # A table of another size was resized to that of the input; a changed precision changes no origin.
    same = [torch.equal(was.to(now.dtype), _sample(now)) for (shape, was), now in both if shape == now.shape]
    if not same or not all(same):
        return None
    prefix = ".".join(filter(None, (held.prefix, inside))) if held.prefix else None
    return RememberedWeights(held.file, prefix, {})


def _sample(param: Tensor) -> Tensor:
    if param.is_meta:  # shapes without values
        return param.new_empty(0, device="cpu")
    values = param.detach().flatten()
    return values[:: max(1, values.numel() // _SAMPLES)][:_SAMPLES].cpu().clone()
