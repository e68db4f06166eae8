"""What is predicted of one image or clip, by family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpeft.core.families.samples import class_scores_of


@dataclass(frozen=True)
class ClassPrediction:
    """Classes of an image or a clip.

    Attributes:
        name: The file, or the place of an array in the list.
        labels: Numbers of the classes that are answered: the first few by score, or of a run with several labels those
            above the threshold, the best first.
        classes: Their names.
        scores: Their probabilities.
        all_scores: Probabilities of all classes ``(classes,)``, as the model's own head gives them.
    """

    name: str
    labels: list[int]
    classes: list[str]
    scores: list[float]
    all_scores: Tensor = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """``{"file": ..., "classes": [{"class": ..., "label": ..., "score": ...}]}``."""
        found = zip(self.classes, self.labels, self.scores, strict=True)
        return {"file": self.name, "classes": [{"class": c, "label": n, "score": s} for c, n, s in found]}

    def rows(self) -> list[dict[str, Any]]:
        """One row of a table for every class."""
        return [{"file": self.name, **one} for one in self.as_json()["classes"]]


@dataclass(frozen=True)
class BoxPrediction:
    """Boxes, and masks where the model has them, of an image.

    Attributes:
        name: The file, or the place of an array in the list.
        size: Height and width of the image, in whose pixels boxes and masks are (turned as EXIF says).
        labels: Numbers of the classes of the boxes above the threshold, the best first.
        classes: Their names.
        scores: Their scores.
        boxes: ``(N, 4)``, float32: left, top, right, bottom.
        masks: ``(N, H, W)``, bool; None where the model has none.
    """

    name: str
    size: tuple[int, int]
    labels: list[int]
    classes: list[str]
    scores: list[float]
    boxes: Tensor = field(repr=False)
    masks: Tensor | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Boxes as ``[left, top, right, bottom]``, masks as COCO's compressed run lengths."""
        found = self._without_masks()
        for one, mask in zip(found, self.masks if self.masks is not None else (), strict=False):
            one["mask"] = run_lengths(mask.numpy())
        return {"file": self.name, "height": self.size[0], "width": self.size[1], "boxes": found}

    def rows(self) -> list[dict[str, Any]]:
        """One row of a table for every box."""
        places = ("left", "top", "right", "bottom")
        return [
            {"file": self.name, "class": one["class"], "label": one["label"], "score": one["score"]}
            | dict(zip(places, one["box"], strict=True))
            for one in self._without_masks()
        ]

    def _without_masks(self) -> list[dict[str, Any]]:
        return [
            {"class": c, "label": n, "score": s, "box": [round(v, 2) for v in box]}
            for c, n, s, box in zip(self.classes, self.labels, self.scores, self.boxes.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class MapPrediction:
    """The label map of an image.

    Attributes:
        name: The file, or the place of an array in the list.
        labels: Numbers of the classes that occur, the most frequent first.
        classes: Their names.
        shares: Which part of the pixels each has.
        label_map: ``(H, W)``, int64, in the image's pixels (turned as EXIF says).
        confidence: ``(H, W)``: the probability of that class in every pixel; None where the model gives none.
    """

    name: str
    labels: list[int]
    classes: list[str]
    shares: list[float]
    label_map: Tensor = field(repr=False)
    confidence: Tensor | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Every class that occurs, with its share and its pixels as COCO's compressed run lengths."""
        height, width = self.label_map.shape
        found = [
            {"class": c, "label": n, "share": s, "mask": run_lengths((self.label_map == n).numpy())}
            for c, n, s in zip(self.classes, self.labels, self.shares, strict=True)
        ]
        return {"file": self.name, "height": height, "width": width, "classes": found}

    def rows(self) -> list[dict[str, Any]]:
        """One row of a table for every class."""
        found = zip(self.classes, self.labels, self.shares, strict=True)
        return [{"file": self.name, "class": c, "label": n, "share": s} for c, n, s in found]


@dataclass(frozen=True)
class FailedInput:
    """An image or clip that could not be read.

    Attributes:
        name: The file, or the place of an array in the list.
        reason: What is wrong, in one line.
    """

    name: str
    reason: str

    def as_json(self) -> dict[str, Any]:
        """``{"file": ..., "reason": ...}``."""
        return {"file": self.name, "reason": self.reason}


Prediction = ClassPrediction | BoxPrediction | MapPrediction


def prediction(
    name: str, sample: Any, classes: Sequence[str], top: int, threshold: float, several: bool
) -> Prediction | None:
    """What a data sample of an OpenMMLab package says, on the CPU; None where it holds nothing of these families.

    Args:
        name: What the prediction is of.
        sample: The data sample.
        classes: Names of the classes; those that have none are named by their number.
        top: How many classes of an image with one label.
        threshold: Least score of boxes, and of the classes of an image with several labels.
        several: Whether an image has several labels.
    """
    if "pred_instances" in sample:
        return _boxes(name, sample, classes, threshold)
    if "pred_sem_seg" in sample:
        return _map(name, sample, classes)
    scores = class_scores_of(sample)
    if scores is None:
        return None
    scores = scores.detach().cpu()
    order = scores.argsort(descending=True, stable=True).tolist()
    labels = [n for n in order if scores[n] >= threshold] if several else order[:top]
    return ClassPrediction(name, labels, _named(labels, classes), [float(scores[n]) for n in labels], scores)


def _boxes(name: str, sample: Any, classes: Sequence[str], threshold: float) -> BoxPrediction:
    found = sample.pred_instances.cpu()
    order = found.scores.argsort(descending=True, stable=True)
    order = order[found.scores[order] >= threshold]
    labels, masks = found.labels[order].tolist(), found.masks[order].bool() if "masks" in found else None
    boxes = getattr(found.bboxes, "tensor", found.bboxes)[order].float()
    size = tuple(int(n) for n in sample.metainfo["ori_shape"][:2])
    return BoxPrediction(name, size, labels, _named(labels, classes), found.scores[order].tolist(), boxes, masks)


def _map(name: str, sample: Any, classes: Sequence[str]) -> MapPrediction:
    label_map = sample.pred_sem_seg.data[0].cpu().long()
    labels, counts = label_map.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    labels, shares = labels[order].tolist(), (counts[order] / label_map.numel()).tolist()
    confidence = None
    if "seg_logits" in sample:
        scores = sample.seg_logits.data.cpu().float()
        one = scores.sigmoid()[0] if len(scores) == 1 else scores.softmax(0).amax(0)
        confidence = torch.maximum(one, 1 - one) if len(scores) == 1 else one
    return MapPrediction(name, labels, _named(labels, classes), shares, label_map, confidence)


def _named(labels: Sequence[int], classes: Sequence[str]) -> list[str]:
    return [classes[n] if n < len(classes) else str(n) for n in labels]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask ``(H, W)`` as COCO's compressed run lengths, its counts as text."""
    from pycocotools.mask import encode

    found = encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in found["size"]], "counts": found["counts"].decode()}
