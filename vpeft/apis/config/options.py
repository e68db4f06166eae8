"""Settings by dotted key (``--cfg-options``): what would reach nothing in the config is refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine import Config
from mmengine.runner import Runner

from vpeft.apis.config.task import FIELDS
from vpeft.core.adaptation.peft_backbone import peft_places
from vpeft.core.contract.options import is_place
from vpeft.errors import UserError
from vpeft.registry import nearest

OPTIONS = "--cfg-options"
#: Fields of mmengine and its packages that are read elsewhere than by the Runner.
ELSEWHERE = {"default_scope", "custom_imports", "auto_scale_lr"}
#: Sections that are read key by key, each with all its keys: another one would change nothing.
CLOSED = {"env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"}}


def check_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Refuse a key that leads nowhere.

    A field that is not in the config must be one that the Runner or this package reads; inside a section whose class
    takes the keys (``type=...``) a wrong one is refused when that is built.

    Raises:
        UserError: The key, what of it is not there, and the nearest that is.
    """
    for key, value in options.items():
        first, *rest = key.split(".")
        known = {*cfg, *FIELDS, *ELSEWHERE, *inspect.signature(Runner.__init__).parameters} - {"self", "cfg"}
        option = f"{OPTIONS} {key}={value!r}"
        if first not in known:
            raise UserError(f"{option}: no such field: {nearest(first, known)}")
        if rest and first in CLOSED and rest[0] not in CLOSED[first]:
            raise UserError(f"{option}: {first} has no {rest[0]!r}: {nearest(rest[0], CLOSED[first])}")
        _follow(cfg.get(first), option, rest, first, value)


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
