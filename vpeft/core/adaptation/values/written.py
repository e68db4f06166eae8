"""Values of the base, written back where they belong."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.kept.few_bits import FewBits
from vpeft.errors import UserError


def write_values(host: Host, values: Mapping[str, Tensor]) -> None:
    """Write values to the base by key; nothing is written where one of them has no place any more.

    Raises:
        UserError: As :func:`places_of`.
    """
    places = places_of(host, values)
    with torch.no_grad():
        for name, value in values.items():
            place = places[name]
            if isinstance(place, FewBits) and not isinstance(value, FewBits):
                place.whole = value.to(place, copy=True)  # merged: few bits would round off what was learned
            place.copy_(value)


def places_of(host: Host, values: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """The parameters of the base by key.

    Raises:
        UserError: One of the values has no place any more, or one of another shape.
    """
    places = {p.name: p.param for p in host.parameters()}
    for name, value in values.items():
        if name not in places or places[name].shape != value.shape:
            now = f"has the shape {tuple(places[name].shape)}" if name in places else "is gone"
            raise UserError(
                f"{name} {now} and had {tuple(value.shape)} when the method was attached: its own values cannot be "
                "given back. Resize the backbone before attaching, or vpeft.detach(model, restore=False)."
            )
    return places


def before_merging(param: nn.Parameter, value: Tensor) -> Tensor:
    """A weight as it was before a merge, of a parameter that is about to be given the merged one.

    One of few bits was stored whole: quantised again it is what it was, and the parameter is whole from now on.
    """
    if not isinstance(param, FewBits):
        return value.to(param, copy=True)
    kept = param.detach()
    kept.write(value)
    param.whole = value.to(dtype=param.dtype, device=param.device, copy=True)
    return kept
