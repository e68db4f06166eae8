"""What a model expects of images: the facts that its library or the files beside its weights state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vpeft.errors import UserError

#: Mean and standard deviation in 0..255, RGB, by the name that the field gives them.
CONSTANTS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "inception": ((127.5,) * 3, (127.5,) * 3),
    "clip": ((122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)),
    "none": ((0.0,) * 3, (255.0,) * 3),
}


@dataclass(frozen=True)
class Preprocessing:
    """How images become a model's input.

    Attributes:
        mean: Of R, G, B in 0..255.
        std: Standard deviations.
        size: Side of the square that the model was trained on, in pixels.
        interpolation: ``bicubic`` or ``bilinear``.
        crop: Side of the square over the shorter edge of the image that it is cut from.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    interpolation: str = "bicubic"
    crop: float = 0.875


def of_timm(stated: Mapping[str, Any]) -> Preprocessing | None:
    """The facts of a ``pretrained_cfg`` of timm; None where it states none."""
    if not stated.get("mean") or not stated.get("std") or not stated.get("input_size"):
        return None
    mean, std = (tuple(round(255 * value, 6) for value in stated[key]) for key in ("mean", "std"))
    interpolation = stated.get("interpolation")
    return Preprocessing(
        mean,
        std,
        int(stated["input_size"][-1]),
        interpolation if interpolation in ("bicubic", "bilinear") else "bicubic",
        float(stated.get("crop_pct") or 0.875),
    )


def of_open_clip(stated: Mapping[str, Any], size: int) -> Preprocessing | None:
    """The facts of what open_clip states of weights, or of a ``preprocess_cfg``; None where it states none.

    Args:
        stated: With ``mean`` and ``std`` in 0..1.
        size: Side of the square that the vision tower sees.
    """
    if not stated.get("mean") or not stated.get("std"):
        return None
    mean, std = (tuple(round(255 * value, 6) for value in stated[key]) for key in ("mean", "std"))
    interpolation = stated.get("interpolation")
    return Preprocessing(mean, std, size, "bilinear" if interpolation == "bilinear" else "bicubic", 1.0)


def of_transformers(stated: Mapping[str, Any]) -> Preprocessing | None:
    """The facts of a ``preprocessor_config.json``; None where it states none.

    Raises:
        UserError: Its images are scaled by another factor than 1/255.
    """
    if "image_mean" not in stated or "image_std" not in stated:
        return None
    factor = stated.get("rescale_factor", 1 / 255)
    if not stated.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-4:
        raise UserError(f"preprocessor_config.json scales pixels by {factor} and not by 1/255: state --normalisation.")
    normal = stated.get("do_normalize", True)
    mean = tuple(round(255 * value, 6) for value in stated["image_mean"]) if normal else CONSTANTS["none"][0]
    std = tuple(round(255 * value, 6) for value in stated["image_std"]) if normal else CONSTANTS["none"][1]
    edge, crop = _side(stated.get("size")), _side(stated.get("crop_size")) if stated.get("do_center_crop") else None
    size = crop or edge or 224
    interpolation = {2: "bilinear", 3: "bicubic"}.get(stated.get("resample", 3), "bicubic")
    return Preprocessing(mean, std, size, interpolation, min(size / edge, 1.0) if edge and crop else 1.0)


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    return int(size) if size else None
