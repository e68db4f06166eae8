"""Boxes and masks: data, model and metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vpeft.apis.config.own.networks import Network
from vpeft.apis.config.own.parts import OwnParts

#: The longer edge over the shorter one, at the most: COCO's 1333 over 800.
_LONG = 5 / 3
#: The shorter edges that are drawn from in training, over the largest.
_SHORT = (0.6, 0.7, 0.8, 0.9, 1.0)
#: Outputs of the neck that regions are cut from, and that proposals come from.
_REGIONS, _OUTPUTS = 4, 5


def object_settings(base: dict[str, Any], parts: OwnParts, masks: bool) -> dict[str, Any]:
    """The settings of a detector.

    Args:
        base: The config of method and model.
        parts: What there is of the run.
        masks: Whether masks are learned too.
    """
    model = base["model"]
    model["data_preprocessor"] |= {
        "mean": list(parts.preprocessing.mean),
        "std": list(parts.preprocessing.std),
        "pad_mask": masks,
    }
    if parts.network is not None:
        _fit(model, parts.network)
        model["backbone"] = parts.adapted(model["backbone"]["method"])
    if not masks and "roi_head" in model:
        for key in [key for key in model["roi_head"] if key.startswith("mask_")]:
            del model["roi_head"][key]
    _count(model, len(parts.classes))
    metrics = ["bbox", "segm"] if masks else ["bbox"]
    data = {"type": "vpeft.CheckedCoco", "data_prefix": {"img": ""}}
    loaders = parts.loaders(
        data,
        _train(parts, masks),
        _test(parts),
        held_batch=1,
        evaluator=lambda file: {"type": "CocoMetric", "ann_file": file, "metric": metrics},
        filtered={"filter_cfg": {"filter_empty_gt": True, "min_size": 1}},
    )
    return {**base, **loaders, "main_metric": "coco/segm_mAP" if masks else "coco/bbox_mAP"}


def _fit(model: dict[str, Any], network: Network) -> None:
    """Let neck, anchors and regions fit what the network gives."""
    if network.kind == "plain":
        stride, channels = network.strides[-1], network.channels[-1]
        model["neck"] = {
            "type": "vpeft.SimpleFeaturePyramid",
            "in_channels": channels,
            "out_channels": 256,
            "num_outs": 5,
        }
        strides = [stride / scale for scale in (4, 2, 1, 0.5, 0.25)]
        divisor = 2 * stride
    else:
        norm = {"type": "GN", "num_groups": 32, "requires_grad": True}  # stages may end without one
        model["neck"] = {
            "type": "FPN",
            "in_channels": list(network.channels),
            "out_channels": 256,
            "num_outs": len(network.channels) + 1,
            "norm_cfg": norm,
        }
        strides = [*network.strides, 2 * network.strides[-1]]
        divisor = network.strides[-1]
    model["data_preprocessor"]["pad_size_divisor"] = int(divisor)
    strides = [int(stride) if stride == int(stride) else stride for stride in strides]
    model["rpn_head"]["anchor_generator"]["strides"] = strides
    for key in ("bbox_roi_extractor", "mask_roi_extractor"):
        model["roi_head"][key]["featmap_strides"] = strides[:-1]


def _count(node: Any, classes: int) -> None:
    """Set the number of classes of every head."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        _count(value, classes)
    if isinstance(node, dict) and "num_classes" in node:
        node["num_classes"] = classes


def _scales(parts: OwnParts, shares: Sequence[float]) -> list[tuple[int, int]]:
    return [(round(_LONG * parts.size), round(share * parts.size)) for share in shares]


def _train(parts: OwnParts, masks: bool) -> list[dict[str, Any]]:
    shares = (1.0,) if parts.augmentation == "none" else _SHORT
    flip = [{"type": "RandomFlip", "prob": 0.5}] if parts.augmentation == "crop_flip" else []
    return [
        {"type": "vpeft.LoadImage"},
        {"type": "LoadAnnotations", "with_bbox": True, **({"with_mask": True} if masks else {})},
        {"type": "RandomChoiceResize", "scales": _scales(parts, shares), "keep_ratio": True},
        *flip,
        {"type": "FilterAnnotations", "min_gt_bbox_wh": (1, 1), "keep_empty": False},
        {"type": "PackDetInputs"},
    ]


def _test(parts: OwnParts) -> list[dict[str, Any]]:
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    return [
        {"type": "vpeft.LoadImage"},
        {"type": "Resize", "scale": _scales(parts, (1.0,))[0], "keep_ratio": True},
        {"type": "PackDetInputs", "meta_keys": keys},
    ]
