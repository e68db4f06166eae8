"""Classes of images: data, model, loss and metric."""

from __future__ import annotations

from typing import Any

from vpeft.apis.config.own.parts import OwnParts
from vpeft.core.backbones.libraries.preprocessing import Preprocessing

#: A random crop is of a square so much smaller than the shorter edge.
_CROP = 7 / 8
BATCH = 64


def image_settings(base: dict[str, Any], parts: OwnParts, several: bool) -> dict[str, Any]:
    """The settings of a classifier.

    Args:
        base: The config of method and model.
        parts: What there is of the run.
        several: Whether an image may show several classes.
    """
    facts, count = parts.preprocessing, len(parts.classes)
    head = {"num_classes": count, "in_channels": base["model"]["head"]["in_channels"]}
    if parts.network is not None:
        head["in_channels"] = parts.network.channels[-1]
        base["model"] |= {"backbone": parts.adapted(base["model"]["backbone"]["method"]), "neck": None}
    kind, loss = ("MultiLabelLinearClsHead", {"use_sigmoid": True}) if several else ("LinearClsHead", {})
    base["model"]["head"] = {"type": kind, **head, "loss": {"type": "CrossEntropyLoss", "loss_weight": 1.0, **loss}}
    if "img_size" in base["model"]["backbone"] and parts.network is None:
        base["model"]["backbone"]["img_size"] = parts.size
    base["data_preprocessor"] = {
        "num_classes": count,
        "mean": list(facts.mean),
        "std": list(facts.std),
        "to_rgb": True,
    }
    metric = {"type": "AveragePrecision"} if several else {"type": "Accuracy", "topk": (1,)}
    kind = "MultiLabelDataset" if several else "BaseDataset"
    pipelines = _train(facts, parts.size, parts.augmentation), _test(facts, parts.size)
    data = {"type": f"mmpretrain.{kind}", "data_prefix": {"img_path": ""}}
    loaders = parts.loaders(data, *pipelines, held_batch=BATCH, evaluator=lambda file: metric)
    return {**base, **loaders, "main_metric": "multi-label/mAP" if several else "accuracy/top1"}


def _resize(edge: int, facts: Preprocessing) -> dict[str, Any]:
    return {"type": "ResizeEdge", "scale": edge, "edge": "short", "interpolation": facts.interpolation}


def _train(facts: Preprocessing, size: int, augmentation: str) -> list[dict[str, Any]]:
    if augmentation == "none":
        return _test(facts, size)
    flip = [{"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"}] if augmentation == "crop_flip" else []
    crop = {"type": "RandomCrop", "crop_size": size}
    steps = [{"type": "vpeft.LoadImage"}, _resize(round(size / _CROP), facts), crop, *flip]
    return [*steps, {"type": "PackInputs"}]


def _test(facts: Preprocessing, size: int) -> list[dict[str, Any]]:
    steps = [
        {"type": "vpeft.LoadImage"},
        _resize(round(size / facts.crop), facts),
        {"type": "CenterCrop", "crop_size": size},
    ]
    return [*steps, {"type": "PackInputs"}]
