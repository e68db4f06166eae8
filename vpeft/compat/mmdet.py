"""Mends of mmdet."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from vpeft.compat.waiting import while_importing

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


def mmdet_imports_augmenters_later() -> None:
    """onedl-mmdetection 3.5.1: importing it imports imgaug, imagecorruptions and numba, which few transforms call."""
    for name, later in LATER.items():
        while_importing(name, functools.partial(_standing_for, later))


@contextlib.contextmanager
def _standing_for(later: Sequence[str], module: types.ModuleType) -> Iterator[None]:
    """Packages that a module imports are stood for while it is loaded, where they exist."""
    if not all(importlib.util.find_spec(package) for package in {name.partition(".")[0] for name in later}):
        yield
        return
    kept = {name: sys.modules.get(name) for name in later}
    sys.modules.update({name: found or _Later(name) for name, found in kept.items()})
    try:
        yield
    finally:
        for name, found in kept.items():
            if found is None:
                del sys.modules[name]


def mmdet_without_notes() -> None:
    """onedl-mmdetection 3.5.1: importing it warns of a faster evaluator that is not asked for, and every prediction of
    masks of a copy in its own code.
    """
    warnings.filterwarnings("ignore", message="faster_coco_eval is not installed")
    warnings.filterwarnings("ignore", message="To copy construct from a tensor", module=r"mmdet\.models\.roi_heads")
