"""What a config sets and what its options (``--cfg-options``) set is refused where it would reach nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine import Config

from vpeft.apis.config.keys.sections import section_faults
from vpeft.apis.config.keys.top_level import places_beside, settings_read, slips, variables_of
from vpeft.apis.config.keys.values import value_faults
from vpeft.apis.config.origin import is_inside
from vpeft.apis.config.task import FIELDS
from vpeft.core.adaptation.peft_backbone import peft_places
from vpeft.core.contract.options import is_place
from vpeft.errors import UserError
from vpeft.registry import nearest

OPTIONS = "--cfg-options"


def check_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Refuse a key that leads nowhere, before the options are put in.

    A field that is not in the config must be one that the Runner or this package reads; inside a section whose class
    takes the keys (``type=...``) a wrong one is refused when that is built. A variable of the config's file is none:
    its value has been put in where it is used.

    Raises:
        UserError: The key, what of it is not there, and the nearest that is.
    """
    variables = variables_of(cfg, options) if options else set()
    for key, value in options.items():
        first, *rest = key.split(".")
        known = {*cfg, *settings_read(cfg, options)} - variables
        option = f"{OPTIONS} {key}={value!r}"
        if first in variables:
            there = [place for place in places_beside(cfg, first) if place.split(".")[0] not in variables]
            told = f" (as {', '.join(there[:3])})" if there else ""
            raise UserError(
                f"{option}: {first} is a variable of the config's file, which has been read: set what it is in{told}."
            )
        if first not in known and first in FIELDS:
            raise UserError(f"{option}: nothing follows from it in a config without `suite`: set what it stands for.")
        if first not in known:
            raise UserError(f"{option}: no such field: {nearest(first, known)}")
        _follow(cfg.get(first), option, rest, first, value)


def check_keys(cfg: Config, options: Mapping[str, Any], name: str) -> None:
    """Refuse what a config sets and nobody reads: unknown keys of sections that no class takes, slips of settings,
    and values that are none of their key.

    Args:
        cfg: The config, with the options.
        options: The user's own, by dotted key.
        name: The config's, for messages.

    Raises:
        UserError: Where the key was set, and the nearest that is read, or what its value must be.
    """
    for key, said in (*section_faults(cfg), *slips(cfg, options), *value_faults(cfg)):
        given = next((one for one in options if is_inside(key, one) or is_inside(one, key)), None)
        raise UserError(f"{f'config {name}' if given is None else f'{OPTIONS} {given}={options[given]!r}'}: {said}")


def open_sizes(cfg: Config, options: Mapping[str, Any]) -> None:
    """Let a method's number be one by stages and blocks (``method.rank.stage2``), where an option says so.

    Of the config's own number nothing stays: what is not named is the class's default, or ``rest``.
    """
    methods = tuple(f"{place}.method." for place in peft_places(cfg))
    for key, value in options.items():
        if methods and key.startswith(methods):
            *path, last = key.split(".") if not isinstance(value, Mapping) else [*key.split("."), next(iter(value), "")]
            node: Any = cfg
            for name in path[:-1]:
                node = node[int(name)] if isinstance(node, (list, tuple)) and name.isdecimal() else node.get(name, {})
            if is_place(last) and path[-1] in node and not isinstance(node[path[-1]], Mapping):
                node[path[-1]] = {}


def _follow(node: Any, option: str, rest: list[str], path: str, value: Any) -> None:
    """Go down one key after the other; what is not there yet is made by the one who reads it."""
    for name in rest:
        if node is None:
            return
        if isinstance(node, (list, tuple)):
            if not name.isdecimal():
                raise UserError(f"{option} does not fit the config: {path} is a list, and {name!r} no place in it.")
            if int(name) >= len(node):  # a task may fill the list; where it does not, the merge refuses
                return
            node = node[int(name)]
        elif isinstance(node, Mapping):
            node = node.get(name)
        else:
            raise UserError(f"{option} does not fit the config: {path} is {node!r}, and nothing lies below that.")
        path = f"{path}.{name}"
    if isinstance(node, Mapping) and isinstance(value, (str, bool, int, float)) and "type" not in node and node:
        raise UserError(
            f"{option} does not fit the config: {path} is a section ({', '.join(map(str, node))}): set its keys."
        )
