"""The state dict of a model by the names of the plain model, whatever stands around it or around a part of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.wrappers import held_name, named_modules, unwrap

__all__ = ["named_modules", "plain_keys", "state_dict", "to_own", "to_plain", "unwrap"]


def plain_keys(model: nn.Module, keys: Iterable[str]) -> dict[str, str]:
    """Key in the plain model of every key of ``model.state_dict()``; what belongs to a wrapper itself is left out."""
    around = [(name, module, held) for name, module in model.named_modules() if (held := held_name(module))]
    found = {}
    for key in keys:
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


def to_plain(model: nn.Module, state: Mapping[str, Any], prefix: str = "") -> OrderedDict[str, Any]:
    """A state dict that ``model`` gave, by the keys of the plain model, in ``state``'s place.

    Args:
        model: The model.
        state: What was taken of it.
        prefix: What stands before every key, such as ``module.`` in that of an average of weights.
    """
    names = plain_keys(model, [key.removeprefix(prefix) for key in state])
    found = OrderedDict()
    for key, value in state.items():
        inner = key.removeprefix(prefix)
        if inner in names:
            found[key[: len(key) - len(inner)] + names[inner]] = value
    if hasattr(state, "_metadata"):
        found._metadata = state._metadata
    return found


def to_own(model: nn.Module, state: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """The inverse: a state dict of the plain model by the keys that ``model`` itself loads."""
    tensors = model.state_dict(keep_vars=True)
    names = plain_keys(model, tensors)
    first: dict[int, str] = {}
    found = OrderedDict((key, value) for key, value in state.items() if key not in names.values())
    for key, plain in names.items():
        plain = first.setdefault(id(tensors[key]), plain) if plain not in state else plain  # it stands twice
        if plain in state:
            first[id(tensors[key])] = plain
            found[key] = state[plain]
    raw = {id(module): name for name, module in model.named_modules()}
    places = {name: raw[id(module)] for name, module in named_modules(model)}
    if hasattr(state, "_metadata"):
        found._metadata = OrderedDict((places.get(name, name), note) for name, note in state._metadata.items())
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
