"""What counts in each family of tasks, and which package it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vpeft.errors import UserError
from vpeft.registry import nearest

#: The families by the scope of their OpenMMLab package.
FAMILIES = {"mmpretrain": "classification", "mmdet": "detection", "mmseg": "segmentation", "mmaction": "video"}
#: Named in the result of a run that uses them.
FAMILY_PACKAGES = {"mmdet": "onedl-mmdetection", "mmseg": "onedl-mmsegmentation", "mmaction": "mmaction2"}
#: The constant C of PPT (survey arXiv 2402.02242).
PPT_CONSTANT = 1e7

#: What counts where a config names no ``main_metric``, with the value that stands for 1.
MAIN_METRICS = {
    "accuracy/top1": 100.0,
    "multi-label/mAP": 100.0,
    "acc/top1": 1.0,
    "coco/segm_mAP": 1.0,
    "coco/bbox_mAP": 1.0,
    "pascal_voc/mAP": 1.0,
    "mIoU": 100.0,
}
#: In words: what is done, and what is measured.
METRIC_WORDS = {
    "accuracy/top1": ("Image classification", "top-1 accuracy"),
    "multi-label/mAP": ("Several labels", "mAP over labels"),
    "acc/top1": ("Video classification", "top-1 accuracy"),
    "coco/segm_mAP": ("Instance segmentation", "mask mAP"),
    "coco/bbox_mAP": ("Object detection", "box mAP"),
    "pascal_voc/mAP": ("Object detection", "box mAP"),
    "mIoU": ("Semantic segmentation", "mean IoU"),
}


def metric_name(metric: str) -> str:
    """A main metric in words; its own name where it has none."""
    return METRIC_WORDS[metric][1] if metric in METRIC_WORDS else metric


def main_metric(metrics: Mapping[str, Any], name: str | None = None) -> dict[str, Any] | None:
    """The metric that counts: ``name`` and ``value`` in [0, 1], None for NaN or infinity; None where there is none, as
    of a detector that finds nothing.

    Args:
        metrics: What the evaluator gave.
        name: The one to take; the first known one unless given.

    Raises:
        UserError: The evaluator gave no such metric, or its scale is not known.
    """
    name = name or next((known for known in MAIN_METRICS if known in metrics), None)
    if name is None or not metrics:
        return None
    if name not in metrics:
        raise UserError(f"main_metric={name!r}: the evaluator gave none of that name: {nearest(name, metrics)}")
    if name not in MAIN_METRICS:
        raise UserError(f"main_metric={name!r}: its scale is not known: {nearest(name, MAIN_METRICS)}")
    value = _number(metrics[name])
    return {"name": name, "value": None if value is None else value / MAIN_METRICS[name]}


def _number(value: Any) -> float | None:
    """A single finite number, None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def ppt(metric: float, parameters: int) -> float:
    """Performance-parameter trade-off ``M exp(-log10(P / C + 1))`` with C = 1e7 (survey arXiv 2402.02242).

    Args:
        metric: M in [0, 1].
        parameters: P, trained parameters without the head.
    """
    return metric * math.exp(-math.log10(parameters / PPT_CONSTANT + 1))
