"""Mends of mmaction2."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any


class _ShowsOldMMCV(importlib.abc.Loader):
    """Runs mmaction's own loader while ``mmcv.__version__`` reads 2.0.0."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: Any) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        import mmcv

        real = mmcv.__version__
        mmcv.__version__ = "2.0.0"
        try:
            self.loader.exec_module(module)
        finally:
            mmcv.__version__ = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class _MMActionFinder(importlib.abc.MetaPathFinder):
    """Finds ``mmaction`` as it is, with the loader above."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name != "mmaction":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ShowsOldMMCV(spec.loader)
        return spec


def mmaction_on_new_mmcv() -> None:
    """mmaction2 1.1.0: it refuses mmcv from 2.1 on at import, and runs with 2.3.6."""
    sys.meta_path.insert(0, _MMActionFinder())
