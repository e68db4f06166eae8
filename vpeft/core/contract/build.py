"""Methods from their names and configs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS, nearest


def build_method(cfg: str | Mapping[str, Any] | Method) -> Method:
    """A method from its name or config.

    Raises:
        UserError: Unknown method or hyper-parameter; the message names the nearest.
    """
    if isinstance(cfg, Method):
        return cfg
    cfg = {"type": cfg} if isinstance(cfg, str) else dict(cfg)
    name = cfg.pop("type", None)
    name = name.removeprefix("vpeft.") if isinstance(name, str) else name
    if name not in PEFT_METHODS.module_dict:
        raise UserError(f"unknown PEFT method {name!r}: {nearest(name, PEFT_METHODS.module_dict)}")
    cls = PEFT_METHODS.module_dict[name]
    known = [f.name for f in dataclasses.fields(cls)]
    for keyword in cfg:
        if keyword not in known:
            raise UserError(f"{name} has no hyper-parameter {keyword!r}: {nearest(keyword, known)}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in cfg.items()})


def build_methods(cfg: str | Mapping[str, Any] | Method | Sequence[Any]) -> list[Method]:
    """The methods of one config or of a list of them."""
    if isinstance(cfg, (str, Mapping, Method)):
        cfg = [cfg]
    return [build_method(one) for one in cfg]
