"""The settings in a config's text, read without running it, and what of them decides a training."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from vpeft.apis.config.origin import flatten
from vpeft.apis.config.setting import NOT_CONTENT, WATCHERS

#: Settings of how it runs, not of what it learns.
_ASIDE = ("env_cfg", "test_", "model_wrapper_cfg", "sync_bn", "published")
_READING = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor")


def content(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config's settings decides the training, by dotted key; as they are read from text: lists, no tuples."""
    flat = flatten(as_text(settings))
    watched = tuple(f"default_hooks.{name}." for name in WATCHERS)
    return {
        key: value
        for key, value in flat.items()
        if key.split(".")[0] not in {*NOT_CONTENT, "load_from"}
        and not key.startswith((*_ASIDE, *watched))
        and key.rpartition(".")[2] not in (*_READING, "data_root")
        and value is not None
    }


def as_text(value: Any) -> Any:
    """As it is read from text: tuples become lists."""
    if isinstance(value, Mapping):
        return {str(key): as_text(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_text(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def settings_of(text: str) -> dict[str, Any]:
    """The settings in a config's text, without running it: it comes with a file; empty where it cannot be read."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    assigned = [node for node in body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return {node.targets[0].id: _value(node.value) for node in assigned}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {str(one.arg): _value(one.value) for one in node.keywords}
    if isinstance(node, ast.Dict):
        return {str(_value(key)): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(one) for one in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
