"""Label maps: data, model and metric."""

from __future__ import annotations

from typing import Any

from vpeft.apis.config.own.networks import Network
from vpeft.apis.config.own.parts import OwnParts

#: The longer edge over the shorter one, at the most.
_LONG = 4
#: Images are drawn smaller and larger in training.
_RATIOS = (0.5, 2.0)


def region_settings(base: dict[str, Any], parts: OwnParts) -> dict[str, Any]:
    """The settings of a model of semantic segmentation.

    Args:
        base: The config of method and model.
        parts: What there is of the run.
    """
    model, size = base["model"], parts.size
    stride = 1
    if parts.network is not None:
        stride = int(max(parts.network.strides))
        _fit(model, parts.network)
        model["backbone"] = parts.adapted(model["backbone"]["method"])
    elif "img_size" in model["backbone"]:
        stride = model["backbone"]["patch_size"]
        model["backbone"]["img_size"] = (size, size)
    padded = -(-size // stride) * stride
    model["data_preprocessor"] |= {
        "mean": list(parts.preprocessing.mean),
        "std": list(parts.preprocessing.std),
        "size": (padded, padded),
        "test_cfg": {"size_divisor": stride},
    }
    for head in ("decode_head", "auxiliary_head"):
        if head in model:
            model[head]["num_classes"] = len(parts.classes)
    loaders = parts.loaders(
        {"type": "vpeft.ListedMaps"},
        _train(parts),
        _test(parts),
        held_batch=1,
        evaluator=lambda file: {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
        drop_last=True,
    )
    return {**base, **loaders, "main_metric": "mIoU"}


def _fit(model: dict[str, Any], network: Network) -> None:
    """Let neck and heads fit what the network gives."""
    channels = list(network.channels)
    if network.kind == "plain":
        model["neck"] |= {"in_channels": channels, "out_channels": channels[-1]}
    else:
        model.pop("neck", None)
    model["decode_head"] |= {"in_channels": channels, "in_index": list(range(len(channels)))}
    middle = model["auxiliary_head"]["in_index"]
    model["auxiliary_head"]["in_channels"] = channels[min(middle, len(channels) - 1)]
    model["auxiliary_head"]["in_index"] = min(middle, len(channels) - 1)


def _train(parts: OwnParts) -> list[dict[str, Any]]:
    size, load = parts.size, [{"type": "vpeft.LoadImage"}, {"type": "vpeft.LoadLabelMap"}]
    scale = (_LONG * size, size)
    if parts.augmentation == "none":
        resize = [{"type": "Resize", "scale": scale, "keep_ratio": True}]
    else:
        resize = [{"type": "RandomResize", "scale": scale, "ratio_range": _RATIOS, "keep_ratio": True}]
    crop = [{"type": "RandomCrop", "crop_size": (size, size), "cat_max_ratio": 0.75}]
    flip = [{"type": "RandomFlip", "prob": 0.5}] if parts.augmentation == "crop_flip" else []
    colour = [] if parts.augmentation == "none" else [{"type": "PhotoMetricDistortion"}]
    return [*load, *resize, *crop, *flip, *colour, {"type": "PackSegInputs"}]


def _test(parts: OwnParts) -> list[dict[str, Any]]:
    return [
        {"type": "vpeft.LoadImage"},
        {"type": "Resize", "scale": (_LONG * parts.size, parts.size), "keep_ratio": True},
        {"type": "vpeft.LoadLabelMap"},  # behind Resize: the map keeps the size in which it is compared
        {"type": "PackSegInputs"},
    ]
