"""Mends of mmdet."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any

#: What modules of mmdet import at the top for single transforms, and with it numba: seconds, for what is not used here.
LATER = {
    "mmdet.datasets.transforms.generate_line": [
        "imgaug",
        "imgaug.augmenters",
        "imgaug.augmentables",
        "imgaug.augmentables.lines",
        "imgaug.augmentables.segmaps",
    ],
    "mmdet.datasets.transforms.transforms": ["imagecorruptions"],
}


class _Later(types.ModuleType):
    """A module or a name in it, imported when it is called."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> _Later:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(f"{self.__name__}.{name}")

    def __call__(self, *args, **kwargs) -> Any:
        module, _, name = self.__name__.rpartition(".")
        return getattr(importlib.import_module(module), name)(*args, **kwargs)


class _ImportsLater(importlib.abc.Loader):
    """Runs a module's own loader while packages that it imports are stood for."""

    def __init__(self, loader: Any, later: Sequence[str]) -> None:
        self.loader, self.later = loader, later

    def create_module(self, spec: Any) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        kept = {name: sys.modules.get(name) for name in self.later}
        sys.modules.update({name: found or _Later(name) for name, found in kept.items()})
        try:
            self.loader.exec_module(module)
        finally:
            for name, found in kept.items():
                if found is None:
                    del sys.modules[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class _LaterFinder(importlib.abc.MetaPathFinder):
    """Finds those modules of mmdet as they are, with the loader above."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name not in LATER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            packages = {module.partition(".")[0] for module in LATER[name]}
            if all(importlib.util.find_spec(package) for package in packages):
                spec.loader = _ImportsLater(spec.loader, LATER[name])
        return spec


def mmdet_imports_augmenters_later() -> None:
    """onedl-mmdetection 3.5.1: importing it imports imgaug, imagecorruptions and numba, which few transforms call."""
    sys.meta_path.insert(0, _LaterFinder())
