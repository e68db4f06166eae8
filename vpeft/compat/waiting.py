"""Mends of packages that wait until the package is imported, so that they import nothing themselves."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

#: Makes what stands around a module's own loading.
Around = Callable[[types.ModuleType], AbstractContextManager[None]]


class _Loader(importlib.abc.Loader):
    """A module's own loader, run inside of something."""

    def __init__(self, loader: Any, around: Sequence[Around]) -> None:
        self.loader, self.around = loader, around

    def create_module(self, spec: Any) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        with contextlib.ExitStack() as stack:
            for around in reversed(self.around):  # what was asked for first comes first behind the import
                stack.enter_context(around(module))
            self.loader.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds some modules as they are, with the loader above."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Around]] = {}

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name not in self.waiting:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.waiting[name])
        return spec


_FINDER = _Finder()


def while_importing(name: str, around: Around) -> None:
    """Let a module be loaded inside of ``around(module)``, a context manager; nothing happens if it is there already.

    Several may be given for one module.

    Args:
        name: The module's full name.
        around: Makes the context manager.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _FINDER.waiting.setdefault(name, []).append(around)


def after_import(name: str, mend: Callable[[types.ModuleType], None]) -> None:
    """Call ``mend(module)`` once a module is loaded, or now if it is there already."""
    if name in sys.modules:
        mend(sys.modules[name])
        return

    @contextlib.contextmanager
    def around(module: types.ModuleType) -> Iterator[None]:
        yield
        mend(module)

    while_importing(name, around)


@contextlib.contextmanager
def hidden(package: str) -> Iterator[bool]:
    """Let an import of a package fail within the context, as where it is not installed.

    Yields:
        Whether it is hidden: one that is imported already is left alone, and so is one that does not exist.
    """
    if package in sys.modules or importlib.util.find_spec(package) is None:
        yield False
        return
    sys.modules[package] = None
    try:
        yield True
    finally:
        del sys.modules[package]
