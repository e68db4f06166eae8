"""Mends of mmaction2."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator

from vpeft.compat.waiting import while_importing


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
