"""Methods from their names and configs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vpeft.core.contract.method import Method
from vpeft.core.contract.options import OPTIONS, check_varying, may_vary
from vpeft.core.contract.values import check_values, type_hints
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS, nearest


def build_method(cfg: str | Mapping[str, Any] | Method) -> Method:
    """A method from its name or config.

    Raises:
        UserError: Unknown method or hyper-parameter (the message names the nearest), or a value of another type or out
            of its range (:mod:`vpeft.core.contract.values`).
    """
    if isinstance(cfg, Method):
        values = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}
        _check(cfg.registered_name(), type(cfg), values)
        return cfg
    if not isinstance(cfg, (str, Mapping)):
        raise UserError(f"method={cfg!r}: give a method's name, or a dict such as dict(type='LoRA', rank=8).")
    cfg = {"type": cfg} if isinstance(cfg, str) else dict(cfg)
    name = cfg.pop("type", None)
    name = name.removeprefix("vpeft.") if isinstance(name, str) else name
    if not isinstance(name, str) or name not in PEFT_METHODS.module_dict:
        raise UserError(f"unknown PEFT method {name!r}: {nearest(name, PEFT_METHODS.module_dict)}")
    cls = PEFT_METHODS.module_dict[name]
    known = [f.name for f in dataclasses.fields(cls)]
    for keyword in cfg:
        if keyword == "init" and keyword not in known:
            others = sorted(
                other for other, one in PEFT_METHODS.module_dict.items() if keyword in one.hyper_parameters()
            )
            raise UserError(f"{name} has no other start than its own: init= chooses one of {', '.join(others)}.")
        if keyword not in known:
            raise UserError(f"{name} has no hyper-parameter {keyword!r}: {nearest(keyword, known)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in cfg.items()}
    values = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    _check(name, cls, values)
    return cls(**values)


def _check(name: str, cls: type[Method], values: Mapping[str, Any]) -> None:
    hints = type_hints(cls)
    plain = dict(values)
    for field, value in values.items():
        if field not in OPTIONS and may_vary(value, hints.get(field, Any)):
            check_varying(name, field, plain.pop(field), hints.get(field, Any), cls.limits)
    check_values(name, hints, cls.limits, plain, cls)


def build_methods(cfg: str | Mapping[str, Any] | Method | Sequence[Any]) -> list[Method]:
    """The methods of one config or of a list of them.

    Raises:
        UserError: There is none, or as :func:`build_method` says.
    """
    if not isinstance(cfg, (list, tuple)):
        cfg = [cfg]
    if not cfg:
        raise UserError("no method is given: name at least one, such as dict(type='LoRA', rank=8).")
    return [build_method(one) for one in cfg]


def keyed(methods: Iterable[Method]) -> dict[str, Method]:
    """Methods by their keys, in order; of two of a kind the second has a number behind its own."""
    found: dict[str, Method] = {}
    for method in methods:
        key, number = method.key(), 2
        while key in found:
            key, number = f"{method.key()}_{number}", number + 1
        found[key] = method
    return found
