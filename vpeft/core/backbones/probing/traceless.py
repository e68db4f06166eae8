"""A pass without memory leaves nothing behind: its tensors have no values, and must not be met again."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_CACHE = type(functools.lru_cache(lambda: None))


@contextmanager
def traceless(network: nn.Module) -> Iterator[None]:
    """Within the context modules may keep tensors as attributes and functions may cache them; behind it they are gone.

    Args:
        network: Its modules, and the functions in the files of their classes, are looked at.
    """
    before = [(vars(module), dict(vars(module)), dict(module._buffers)) for module in network.modules()]
    caches = [(cache, cache.cache_info().misses) for cache in _caches(network)]
    try:
        yield
    finally:
        for now, values, buffers in before:
            now.clear()
            now.update(values)
            now["_buffers"].clear()
            now["_buffers"].update(buffers)
        for cache, misses in caches:
            if cache.cache_info().misses != misses:
                cache.cache_clear()


def _caches(network: nn.Module) -> Iterator[Any]:
    """The caches of ``functools`` around functions and methods in the files of a network's classes."""
    classes = {cls for module in network.modules() for cls in type(module).__mro__}
    classes = {cls for cls in classes if cls.__module__.split(".")[0] not in ("torch", "builtins")}
    files = [sys.modules[name] for name in {cls.__module__ for cls in classes} if name in sys.modules]
    for holder in [*classes, *files]:
        for value in list(vars(holder).values()):
            # A decorator around the cache holds it in a cell, as transformers' does.
            cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or () if _is_filled(cell)]
            yield from (one for one in (value, *cells) if type(one) is _CACHE)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (an empty cell raises)
    except ValueError:
        return False
    return True
