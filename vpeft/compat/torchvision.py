"""Mends of torchvision."""

from __future__ import annotations

import sys
from typing import Any

import torch

_keep_alive: list[Any] = []


def torchvision_without_ops() -> None:
    """torchvision 0.28 beside a CPU build of torch 2.13: its compiled ops do not load, so importing it fails.

    The import registers fake kernels for two operators that the library would have defined. Their schemas alone
    make everything but the compiled ops work. Nothing is done where the plain import succeeds.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _keep_alive.append(library)
        import torchvision  # noqa: F401
