"""Mends of mmseg."""

from __future__ import annotations

import functools
import types
from typing import Any

from vpeft.compat.mmengine import with_own_readers
from vpeft.compat.waiting import after_import


def mmseg_inferencers_read_as_a_run() -> None:
    """onedl-mmsegmentation 1.4.2: its inferencer refuses a config whose images are read by ``vpeft.LoadImage``, and
    ``inference_model`` looks for a label map beside the image where ``vpeft.LoadLabelMap`` reads those.
    """
    after_import("mmseg.apis.mmseg_inferencer", _read_as_a_run)
    after_import("mmseg.apis.utils", _without_label_maps)


def _read_as_a_run(module: types.ModuleType) -> None:
    module.MMSegInferencer._init_pipeline = with_own_readers(module.MMSegInferencer._init_pipeline)


def _without_label_maps(module: types.ModuleType) -> None:
    original = module._preprare_data

    @functools.wraps(original)
    def prepare(images: Any, model: Any) -> Any:
        steps = model.cfg.test_pipeline
        steps[:] = [step for step in steps if step["type"] != "vpeft.LoadLabelMap"]
        return original(images, model)

    module._preprare_data = prepare
