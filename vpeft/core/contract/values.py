"""What the value of a hyper-parameter may be: its type by the field's hint, its range by the table here or the method's
own (``Method.limits``).
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from vpeft.errors import UserError

#: Lowest and highest value, both allowed.
Limits = tuple[float, float]

#: Of every field of a type: no width or count is larger than any layer, no factor vanishes or overflows in float32.
OF_TYPE: dict[type, Limits] = {int: (1, 2**16), float: (1e-6, 1e6)}
#: Of every field of a name, for all methods.
OF_NAME: dict[str, Limits] = {"drop": (0, 1), "drop_path": (0, 0.99), "blocks": (-10_000, 10_000), "bits": (1, 4)}


def check_values(
    name: str, hints: Mapping[str, Any], limits: Mapping[str, Limits], values: Mapping[str, Any], defaults: Any
) -> None:
    """Refuse a value that is not of its field's type, no finite number, or out of its range.

    Args:
        name: The method's name.
        hints: Type hints by field; a field without one, or of a hint that says nothing here, takes anything.
        limits: Ranges by field, before the tables of this file.
        values: What is asked for, by field.
        defaults: Object whose attributes are the fields' defaults; these are always allowed.

    Raises:
        UserError: Method, field, value, and what it must be.
    """
    for field, value in values.items():
        hint, own = hints.get(field, Any), {**OF_NAME, **limits}.get(field)
        if fits(value, hint, own) or _same(value, getattr(defaults, field, _Missing)):
            continue
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise UserError(f"{name}: {field}={shown} must be {words(hint, own)}.")


class _Missing:
    """Equal to nothing."""


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def fits(value: Any, hint: Any, limits: Limits | None = None) -> bool:
    """Whether a value is of a hint's type, and every number in it within the limits (:data:`OF_TYPE` unless given)."""
    kind, of = typing.get_origin(hint), typing.get_args(hint)
    if kind in (Union, types.UnionType):
        return any(fits(value, one, limits) for one in of)
    if kind is Literal:
        return any(_same(value, one) for one in of)
    if kind in (tuple, list):
        return isinstance(value, (tuple, list)) and all(fits(one, of[0], limits) for one in value)
    if kind is dict:
        return isinstance(value, Mapping) and all(isinstance(k, of[0]) and fits(v, of[1]) for k, v in value.items())
    if hint in (int, float):
        number = isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
        low, high = limits or OF_TYPE[hint]
        return number and low <= value <= high and math.isfinite(value)
    return isinstance(value, hint) if hint in (bool, str, type(None)) else True


def options_of(hint: Any) -> tuple[Any, ...]:
    """What a hint leaves open: the parts of a union, else the hint itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def words(hint: Any, limits: Limits | None = None) -> str:
    """What a value of the hint must be, to end a sentence with."""
    kind, of = typing.get_origin(hint), typing.get_args(hint)
    if kind in (Union, types.UnionType):
        return " or ".join(words(one, limits) for one in of)
    if kind is Literal:
        return "one of " + ", ".join(map(repr, of))
    if kind is dict:
        return f"pairs of a key and {'a value' if of[1] is Any else words(of[1])}"
    if kind in (tuple, list):
        return "a list" if of[0] is Any else f"a list, each of it {words(of[0], limits)}"
    if hint in (int, float):
        low, high = limits or OF_TYPE[hint]
        return f"a {'whole ' if hint is int else ''}number from {low:g} to {high:g}"
    return {bool: "True or False", str: "a text", type(None): "None"}.get(hint, "something else")


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Hints by field; none of a class whose hints name what is not there."""
    try:
        return typing.get_type_hints(cls)
    except NameError:
        return {}
