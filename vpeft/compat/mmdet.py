"""Mends of mmdet."""

from __future__ import annotations

import contextlib
import importlib.util
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

from vpeft.compat.mmengine import with_own_readers
from vpeft.compat.waiting import after_import, hidden, while_importing


def mmdet_without_lost_transformers() -> None:
    """onedl-mmdetection 3.5.1: importing it imports transformers, of which it then misses a name, and goes without.

    It goes without at once where the name is not there.
    """
    while_importing("mmdet.models.utils.vlfuse_helper", _without_transformers)


@contextlib.contextmanager
def _without_transformers(module: types.ModuleType) -> Iterator[None]:
    spec = importlib.util.find_spec("transformers")
    file = spec and Path(spec.origin).with_name("modeling_utils.py")
    if file and "apply_chunking_to_forward" not in file.read_text(encoding="utf-8"):
        with hidden("transformers"):
            yield
    else:
        yield


def mmdet_without_notes() -> None:
    """onedl-mmdetection 3.5.1: importing it warns of a faster evaluator that is not asked for, and every prediction of
    masks of a copy in its own code.
    """
    warnings.filterwarnings("ignore", message="faster_coco_eval is not installed")
    warnings.filterwarnings("ignore", message="To copy construct from a tensor", module=r"mmdet\.models\.roi_heads")


def mmdet_inferencer_reads_as_a_run() -> None:
    """onedl-mmdetection 3.5.1: its inferencer refuses a config whose images are read by ``vpeft.LoadImage``."""
    after_import("mmdet.apis.det_inferencer", _read_as_a_run)


def _read_as_a_run(module: types.ModuleType) -> None:
    module.DetInferencer._init_pipeline = with_own_readers(module.DetInferencer._init_pipeline)
