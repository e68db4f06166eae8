"""What data samples and preprocessed inputs of all task families hold, read in one way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def label_of(sample: Any) -> int | None:
    """The class of a data sample of mmpretrain or mmaction, None where it has none."""
    label = _field(sample, "gt_label")
    return None if label is None or label.numel() != 1 else int(label)


def labels_of_info(info: Mapping[str, Any]) -> Any:
    """The class, or the list of classes, that a data set's information on a sample states; None where there is none.

    mmpretrain's ``gt_label``, mmaction's ``label``, or those of mmdet's boxes that are not to be ignored.
    """
    if "instances" in info:
        boxes = [one for one in info["instances"] if "bbox_label" in one and not one.get("ignore_flag")]
        return [one["bbox_label"] for one in boxes]
    labels = info.get("gt_label", info.get("label"))
    return None if isinstance(labels, Mapping) else labels  # several tasks at once


def name_of_info(info: Mapping[str, Any], index: int) -> str:
    """What a sample is called in messages: its file, or its place."""
    path = next((info[key] for key in ("img_path", "filename", "frame_dir", "video_path") if info.get(key)), None)
    return f"sample {index}" if path is None else f"sample {index} ({path})"


def _field(sample: Any, name: str) -> Tensor | None:
    """A field of a data sample; mmaction packs it as the ``item`` of one with an ``s``."""
    value = getattr(sample, name, None)
    return getattr(getattr(sample, f"{name}s", None), "item", None) if value is None else value


def class_scores_of(sample: Any) -> Tensor | None:
    """Probabilities of the classes ``(classes,)`` that a data sample holds, None where it holds none."""
    score = _field(sample, "pred_score")
    return None if score is None or score.dim() != 1 else score


def label_threshold(model: nn.Module) -> float | None:
    """The least score of a class, by the model's own head, where an image may have several; None where it has one."""
    head = getattr(model, "head", None)
    if not hasattr(head, "thr") or not hasattr(head, "topk"):  # of mmpretrain's heads for several labels
        return None
    return 0.5 if head.thr is None else float(head.thr)


def prediction_of(sample: Any) -> tuple[int, float] | None:
    """The predicted class and its probability, None where the sample holds no class scores."""
    score = class_scores_of(sample)
    if score is None:
        return None
    best = int(score.argmax())
    return best, float(score[best])


def shown(model: nn.Module, inputs: Tensor) -> np.ndarray:
    """Preprocessed inputs as the images that they show.

    Args:
        model: Their model, whose data preprocessor says how they were normalised.
        inputs: ``(B, 3, H, W)``, or clips ``(B, 3, T, H, W)``.

    Returns:
        RGB, uint8, ``(B, H, W, 3)`` or ``(B, T, H, W, 3)``.
    """
    before = model.data_preprocessor
    mean, std = (getattr(before, name, None) for name in ("mean", "std"))
    images = inputs.detach().float().cpu()
    if mean is not None and std is not None:
        shape = (1, -1, *(1,) * (images.dim() - 2))
        images = images * std.detach().float().cpu().reshape(shape) + mean.detach().float().cpu().reshape(shape)
    converted = any(getattr(before, name, False) for name in ("_channel_conversion", "channel_conversion", "to_rgb"))
    if not converted and images.dim() == 4:
        images = images.flip(1)  # images are read as BGR, clips as RGB
    return images.round().clamp(0, 255).to(torch.uint8).movedim(1, -1).numpy()
