"""Mends of pycocotools."""

from __future__ import annotations

import types
from typing import Any

from vpeft.compat.waiting import after_import


def pycocotools_prints_to_log() -> None:
    """pycocotools 2.0: it prints three dozen lines for each evaluation; they go where the run's other lines go."""
    for name in ("pycocotools.coco", "pycocotools.cocoeval"):
        after_import(name, _print_to_log)


def _print_to_log(module: types.ModuleType) -> None:
    module.print = _log


def _log(*words: Any) -> None:
    from mmengine.logging import print_log

    print_log(" ".join(map(str, words)), "current")
