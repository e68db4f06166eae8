"""The state dict of a model by the names of the plain model, whatever stands around it or around a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.wrappers import held_name, named_modules, unwrap

__all__ = ["named_modules", "plain_keys", "state_dict", "unwrap"]


def plain_keys(model: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, str]:
    """Key in the plain model of every key of ``model.state_dict()``; what belongs to a wrapper itself is left out."""
    around = [(name, module, held) for name, module in model.named_modules() if (held := held_name(module))]
    found = {}
    for key in state_dict:
        plain: str | None = key
        for name, module, held in reversed(around):  # the innermost first: the names of the outer ones hold until then
            prefix = f"{name}." if name else ""
            if plain.startswith(f"{prefix}{held}."):
                plain = prefix + plain[len(prefix) + len(held) + 1 :]
            elif plain.removeprefix(prefix) in (*module._buffers, *module._parameters):
                break
        else:
            found[key] = plain
    return found


def state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict by the keys of the plain model; the tensors are the model's own, not copies.

    A module or parameter that stands at several places comes once, under its first key.
    """
    state = model.state_dict(keep_vars=True)
    found, seen = {}, set()
    for key, plain in plain_keys(model, state).items():
        if id(state[key]) not in seen:
            seen.add(id(state[key]))
            found[plain] = state[key].detach() if isinstance(state[key], Tensor) else state[key]
    return found
