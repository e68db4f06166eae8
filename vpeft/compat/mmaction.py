"""Mends of mmaction2."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Iterator
from typing import Any

from vpeft.compat.waiting import after_import, while_importing


def mmaction_on_new_mmcv() -> None:
    """mmaction2 1.1.0: it refuses mmcv from 2.1 on at import, and runs with 2.3.6."""
    while_importing("mmaction", _shows_old_mmcv)


@contextlib.contextmanager
def _shows_old_mmcv(module: types.ModuleType) -> Iterator[None]:
    import mmcv

    real, mmcv.__version__ = mmcv.__version__, "2.0.0"
    try:
        yield
    finally:
        mmcv.__version__ = real


def mmaction_masks_of_programs() -> None:
    """mmaction2's Video Swin keeps its masks: one made while a program is exported has no values, and stays."""
    after_import("mmaction.models.backbones.swin", _keeps_real_masks)


def _keeps_real_masks(module: types.ModuleType) -> None:
    import torch

    kept = module.compute_mask

    @functools.wraps(kept)
    def compute_mask(*args: Any) -> Any:
        in_program = torch.compiler.is_exporting() or torch.compiler.is_compiling()
        return kept.__wrapped__(*args) if in_program else kept(*args)

    module.compute_mask = compute_mask
