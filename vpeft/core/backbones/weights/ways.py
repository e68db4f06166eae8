"""The ways from a file's tensors to a model's names: the table of formats, the model's own names, its library."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from vpeft.core.backbones.libraries import Library, library_of
from vpeft.core.backbones.weights.converted import BUFFER, HEAD, Converted
from vpeft.core.backbones.weights.recognise import (
    FORMATS,
    LEFT_OUT,
    VIDEO,
    NoWay,
    below,
    convert,
    find_prefix,
    has_layout,
    layout_of,
    reason_outside,
    recognise,
)
from vpeft.core.backbones.weights.resize import Resized
from vpeft.errors import UserError

_NOT_HERE = "part that the model lacks"


@dataclass
class Found:
    """Weights by a model's names, found in one way.

    Attributes:
        format: What the file was read as.
        weights: Its tensors by the model's names; of names that the model does not have too.
        kept: Pattern of the model's keys that files may lack.
        heads: Names of the model's modules that are trained anew for a task.
        of_clips: Whether the weights are a video backbone's; None where position tables are not to be resized.
        left_out: Keys of the file that are not loaded on purpose, each with the reason.
        resized: What a library's converter has resized, with the shapes before and after.
    """

    format: str
    weights: Converted
    kept: str = r"(?!)"
    heads: tuple[str, ...] = ()
    of_clips: bool | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    resized: Resized = field(default_factory=dict)


def ways(state: Mapping[str, Tensor], backbone: nn.Module) -> Iterator[Found | UserError]:
    """Weights by the names of ``backbone``, in each way that there is; an error where a way leads nowhere."""
    if has_layout(backbone):
        yield _by_table(state, backbone)
    of = library_of(backbone) or Library()
    yield _by_own_names(state, backbone, of)
    yield _by_library(state, backbone, of, "")
    if off := _prefixes(state, backbone.state_dict())[0]:
        yield _by_library(below(state, off), backbone, of, off)


def _by_table(state: Mapping[str, Tensor], backbone: nn.Module) -> Found | UserError:
    try:
        name = recognise(state, backbone)
        prefix = find_prefix(state)
        weights = convert(below(state, prefix), name, backbone)
    except UserError as error:
        return error
    layout = FORMATS[layout_of(backbone)]
    outside = {key: reason_outside(prefix) for key in state if not key.startswith(prefix)}
    return Found(name, weights, layout.kept, layout.heads, FORMATS[name].holds.startswith(VIDEO), outside)


def _by_own_names(state: Mapping[str, Tensor], backbone: nn.Module, of: Library) -> Found | UserError:
    own = backbone.state_dict()
    off, on, equal = _prefixes(state, own)
    if len(equal) > 1:
        return UserError(f"has this model's keys below {', '.join(map(repr, equal[:4]))}: say which by prefix=...")
    if off is None:
        some = ", ".join(list(state)[:3])
        return NoWay(f"has no keys of {type(backbone).__name__} (its first keys: {some}): give a file of this model.")
    # Where all of the model but its heads has one first name, what has another in the file is not of this model.
    heads = of.heads_of(backbone)
    firsts = {key.split(".")[0] for key in own if not in_modules(key, heads)}
    start = off or (f"{firsts.pop()}." if len(firsts) == 1 and not on else "")
    also = () if off else heads
    inside = {key: on + key.removeprefix(off) for key in state if key.startswith(start) or in_modules(key, also)}
    weights = Converted({new: state[key] for key, new in inside.items()}, {new: key for key, new in inside.items()})
    outside = dict.fromkeys(state.keys() - inside.keys(), f"outside {start!r}")
    return _found(f"{type(backbone).__name__}'s own names", weights, own, backbone, of, outside, on)


def _by_library(state: Mapping[str, Tensor], backbone: nn.Module, of: Library, prefix: str) -> Found | UserError:
    try:
        converted = of.converted(dict(state), backbone)
    except Exception as error:  # a converter meets a file that it was not written for
        return NoWay(f"{of.prefix}'s {of.converter} cannot read it ({type(error).__name__}): is it of this model?")
    if not converted:
        return NoWay(f"{of.prefix} has no converter for it.")
    weights = Converted(converted, {key: prefix + key for key in converted})
    found = _found(f"{of.prefix}'s {of.converter} reads it", weights, backbone.state_dict(), backbone, of, {})
    found.resized = _resized(state, converted)
    return found


def _found(
    name: str,
    weights: Converted,
    own: Mapping[str, Tensor],
    backbone: nn.Module,
    of: Library,
    outside: dict[str, str],
    base: str = "",
) -> Found:
    """Leave out what the model has in another shape for its task, or may do without; ``base`` is the file's place."""
    heads, reasons = of.heads_of(backbone), {}
    known = {**LEFT_OUT, of.optional: _NOT_HERE}
    for key, tensor in weights.state.items():
        if in_modules(key, heads) and (key not in own or own[key].shape != tensor.shape):
            reasons[re.escape(key)] = HEAD
        elif key not in own:
            inside = key.removeprefix(base)
            reasons |= {re.escape(key): why for pattern, why in known.items() if re.fullmatch(pattern, inside)}
            if not tensor.is_floating_point():
                reasons[re.escape(key)] = BUFFER
    return Found(name, weights.without(reasons), of.kept, heads, None, outside)


def _resized(state: Mapping[str, Tensor], converted: Mapping[str, Tensor]) -> Resized:
    """What has other sizes than in the file, where it stands by the same name or below something; of a kernel or table
    by another name, the one of as many dimensions that alone has its width.
    """
    found = {}
    for key, tensor in converted.items():
        like = [state[key]] if key in state else [one for name, one in state.items() if name.endswith(f".{key}")]
        if not like and tensor.dim() > 2 and all(tensor.numel() != one.numel() for one in state.values()):
            like = [one for one in state.values() if _widths(one) == _widths(tensor)]
        if len(like) == 1 and like[0].numel() != tensor.numel() and like[0].dim() == tensor.dim():
            found[key] = (tuple(like[0].shape), tuple(tensor.shape))
    return found


def _widths(tensor: Tensor) -> tuple[int, ...]:
    """Number of dimensions, and the sizes that no resizing changes: of a kernel its first two, of a table its last."""
    return (tensor.dim(), *(tensor.shape[:2] if tensor.dim() > 3 else tensor.shape[-1:]))


def in_modules(key: str, modules: tuple[str, ...]) -> bool:
    """Whether a key belongs to one of some modules, given by their dotted names."""
    return any(key == name or key.startswith(f"{name}.") for name in modules)


def _prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str | None, str, list[str]]:
    """What stands before the model's keys in the file, and what before the file's in the model; of both one is empty.

    Returns:
        Both; the first is None where they have too little in common. And all that are as near as the first.
    """
    off = Counter(start for key in state for start, end in _splits(key) if end in own)
    on = Counter(start for key in own for start, end in _splits(key) if start and end in state)
    most = max([*off.values(), *on.values()], default=0)
    if 2 * most < min(len(own), len(state)):
        return None, "", []
    fits = sorted((start for start, count in off.items() if count == most), key=len)
    if fits:
        return fits[0], "", fits if fits[0] else []
    return "", max(on, key=lambda start: (on[start], -len(start))), []


def _splits(key: str) -> Iterator[tuple[str, str]]:
    """A key parted at each of its dots, and before its start."""
    yield "", key
    yield from ((key[: i + 1], key[i + 1 :]) for i, letter in enumerate(key) if letter == ".")
