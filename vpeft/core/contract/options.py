"""The options that every method has: what the mechanism does with a method, whatever the method is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from vpeft.core.contract.values import OF_NAME, Limits, fits, options_of, words
from vpeft.errors import UserError

#: Key of the value of all blocks that are not named, among sizes by stage or block.
REST = "rest"
_PLACE = re.compile(r"(stage|block)(\d+)")
#: Pattern of all such keys.
PLACES = rf"^({_PLACE.pattern}|{REST})$"


@dataclasses.dataclass(kw_only=True)
class Options:
    """What stands in every method's dict beside its own hyper-parameters; files without them mean none.

    To add one: a field here, whose default changes nothing and whose type hint says what it takes; one file in
    :mod:`vpeft.core.adaptation.options` that says what it does; and a line where it acts in
    :class:`~vpeft.core.adaptation.options.on_host.OnHost`, through which alone the mechanism calls a method (``check``,
    ``build``, ``trains``, ``count``, ``learn``, ``losses``, ``after_step``). Configs, the config check, adapter files,
    sweeps and the tuner know the field from then on; a method has no attribute of its name.

    Args:
        blocks: The blocks that the method is in: a number k, ``"last k"`` or ``"first k"``; an index (negative ones
            from the end), ``"stage2"``, ``"block5"``, or a list of these. None means all.
        extra: Roles of existing parameters that are trained and stored beside it
            (:mod:`vpeft.core.adaptation.options.extra`).
        consistency: PACE: noise on what the method adds, and agreement of two passes, as ``dict(sigma=1.2, weight=1)``
            (:class:`vpeft.core.adaptation.options.noise.Consistency`). None means neither.
        bits: 1 to 4: its matrices are read, and stored, in so many bits (:mod:`vpeft.core.adaptation.options.packed`).
            None means as they are.
        bits_error: Which error the levels of ``bits`` make least: ``absolute``, as in the authors' code, or
            ``squared``.
        save_memory: ``mlp``: the hidden layers of the MLPs are worked out again in the backward pass
            (:mod:`vpeft.core.adaptation.options.saving`). None means that they are kept.
        skip_unread: In training, tokens that no head reads do not pass the last block's MLP
            (:mod:`vpeft.core.adaptation.options.unread`).
    """

    blocks: int | str | tuple[int | str, ...] | None = None
    extra: tuple[str, ...] = ()
    consistency: dict[str, Any] | None = None
    bits: int | None = None
    bits_error: Literal["absolute", "squared"] = "absolute"
    save_memory: Literal["mlp"] | None = None
    skip_unread: bool = False

    def options(self) -> dict[str, Any]:
        """Those that are not at their default."""
        found = {f.name: (getattr(self, f.name), f.default) for f in dataclasses.fields(Options)}
        return {name: value for name, (value, default) in found.items() if value != default}


#: Their names.
OPTIONS = tuple(field.name for field in dataclasses.fields(Options))


def varying(method: Any) -> dict[str, Mapping[str, Any]]:
    """Hyper-parameters that differ between blocks: values by ``stage<i>``, ``block<i>`` and ``rest``, by field."""
    own = {f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.name not in OPTIONS}
    return {name: value for name, value in own.items() if _by_place(value)}


def may_vary(value: Any, hint: Any) -> bool:
    """Whether a value is one by stages or blocks, or another dict in the place of a number."""
    return isinstance(value, Mapping) and (_by_place(value) or not {int, float}.isdisjoint(options_of(hint)))


def check_varying(name: str, field: str, value: Mapping[str, Any], hint: Any, limits: Mapping[str, Limits]) -> None:
    """Refuse values by stages or blocks of a field that holds no number, and such as the field does not take.

    Raises:
        UserError: Method, field, value, and what it must be.
    """
    own = {**OF_NAME, **limits}.get(field)
    if {int, float}.isdisjoint(options_of(hint)):
        raise UserError(f"{name}: {field} is no number, and only numbers may differ between stages or blocks.")
    if wrong := [place for place in value if not is_place(place)] or ["an empty dict"] * (not value):
        raise UserError(
            f"{name}: {field} by {wrong[0]!r}: name stages and blocks, such as stage2, block11, and {REST}."
        )
    for place, one in value.items():
        if isinstance(one, (tuple, list, Mapping)) or not fits(one, hint, own):
            raise UserError(f"{name}: {field}={{{place!r}: {one!r}}}: it must be {words(hint, own)}.")


def named_blocks(place: str) -> tuple[str, int] | None:
    """``stage2`` and ``block5`` as a kind and a number; None of other text."""
    found = _PLACE.fullmatch(place)
    return (found[1], int(found[2])) if found else None


def _by_place(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(is_place(key) for key in value)


def is_place(key: Any) -> bool:
    """Whether a key names a stage, a block, or the rest of them."""
    return isinstance(key, str) and (key == REST or named_blocks(key) is not None)


def plain_value(value: Any) -> Any:
    """A value as configs and files hold it."""
    if isinstance(value, (tuple, list)):
        return [plain_value(one) for one in value]
    return {key: plain_value(one) for key, one in value.items()} if isinstance(value, Mapping) else value
