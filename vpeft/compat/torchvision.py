"""Mends of torchvision."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpeft.compat.waiting import while_importing

_keep_alive: list[Any] = []


def torchvision_without_ops() -> None:
    """torchvision 0.28 beside a CPU build of torch 2.13: its compiled ops do not load, so importing it fails.

    The import registers fake kernels for two operators that the library would have defined. Their schemas alone
    make everything but the compiled ops work. Nothing is done where the library loads.
    """
    while_importing("torchvision", _with_schemas)


@contextlib.contextmanager
def _with_schemas(module: types.ModuleType) -> Iterator[None]:
    import torch

    if not _loads(Path(module.__path__[0])):
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _keep_alive.append(library)
    yield


def _loads(folder: Path) -> bool:
    """Whether the library of compiled operators can be loaded; torchvision does so again, without effect."""
    import torch

    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        if (file := folder / f"_C{suffix}").exists():
            with contextlib.suppress(OSError):
                torch.ops.load_library(str(file))
                return True
    return False
