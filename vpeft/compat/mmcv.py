"""Mends of mmcv."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

from vpeft.compat.waiting import after_import


class _Operators(types.ModuleType):
    """In the place of ``mmcv._ext``: what :mod:`vpeft.compat.mmcv_operators` has; anything else says so when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*args, **kwargs) -> Any:
            # Not before: mmcv.ops is imported while vpeft is, and would be left half imported by a circle.
            from vpeft.compat import mmcv_operators
            from vpeft.errors import UserError

            if not hasattr(mmcv_operators, name):
                raise UserError(
                    f"mmcv was installed without its compiled operators, and {name!r} is none of those that vpeft has "
                    "in plain torch: build mmcv with ops (docs/detection.md)."
                )
            return getattr(mmcv_operators, name)(*args, **kwargs)

        return operator


class _OperatorsFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``mmcv._ext`` where nothing else does."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if name == "mmcv._ext" else None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Operators(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def mmcv_without_ops() -> None:
    """mmcv 2.3.6 without compiled ops: mmdet cannot be imported, and an attention that it has warns at import.

    The operators that Cascade Mask R-CNN and RetinaNet need are put in their place. The finder stands last, so that
    compiled operators are used where they exist.
    """
    import warnings

    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    sys.meta_path.append(_OperatorsFinder())


def mmcv_drop_path_of_numbers() -> None:
    """mmcv 2.3.6: mmpretrain and mmaction2 give DropPath its rate as a tensor or a number of numpy's.

    Its ``if drop_prob == 0.`` then is a branch on data, at which torch.compile breaks the graph.
    """
    after_import("mmcv.cnn.bricks.drop", _takes_numbers)


def _takes_numbers(module: types.ModuleType) -> None:
    plain = module.DropPath.__init__

    @functools.wraps(plain)
    def init(self: Any, drop_prob: Any = 0.1) -> None:
        plain(self, drop_prob if getattr(drop_prob, "is_meta", False) else float(drop_prob))

    module.DropPath.__init__ = init
