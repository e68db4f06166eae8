"""What follows from the choice of a task."""

from __future__ import annotations

from typing import Any

from mmengine import Config
from mmengine.logging import print_log

from vpeft.core.datasets.tasks import SPLITS, check_split, get_task
from vpeft.errors import UserError
from vpeft.registry import nearest

#: Mean and standard deviation in 0..255, RGB.
NORMALISATIONS = {
    "imagenet": ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    "inception": ([127.5] * 3, [127.5] * 3),
    "none": ([0.0] * 3, [255.0] * 3),
}
AUGMENTATIONS = ("none", "flip", "crop_flip")


def configure_task(cfg: Config, task: str | None = None) -> Config:
    """Set, in place, everything in a config that its task, splits, normalisation and augmentation decide.

    Args:
        cfg: A config with the fields of ``configs/_base_/datasets/``; one without ``suite`` is left alone.
        task: Another task than the config's.

    Raises:
        UserError: Unknown task, split, normalisation or augmentation; the message names the nearest.
    """
    if not cfg.get("suite"):
        return cfg
    chosen = get_task(task or cfg.task, cfg.suite)
    cfg.task = chosen.name
    for split in (cfg.train_split, cfg.eval_split):
        check_split(split, cfg.suite)
    _choice("normalisation", cfg.normalisation, NORMALISATIONS)
    _choice("augmentation", cfg.augmentation, AUGMENTATIONS)
    resize = cfg.get("resize", "square")
    _choice("resize", resize, RESIZES)

    mean, std = NORMALISATIONS[cfg.normalisation]
    cfg.data_preprocessor.update(mean=mean, std=std, num_classes=chosen.num_classes)
    if "model" in cfg:
        cfg.model.head.num_classes = chosen.num_classes
        if "img_size" in cfg.model.backbone:
            cfg.model.backbone.img_size = cfg.image_size
    splits = {"train": cfg.train_split, "val": SPLITS[cfg.suite].val, "test": cfg.eval_split}
    for name, split in splits.items():
        loader = cfg.get(f"{name}_dataloader")
        if loader is None:
            continue
        loader.dataset.update(task=chosen.name, split=split)
        if "data_root" in cfg:
            loader.dataset.data_root = cfg.data_root
        if name == "test" and cfg.get("shift"):
            _shift(cfg, loader.dataset)
        augmentation = cfg.augmentation if name == "train" else "none"
        loader.dataset.pipeline = RESIZES[resize](cfg.image_size, augmentation, chosen.flip_safe)
    if cfg.augmentation != "none" and not chosen.flip_safe:
        print_log(f"no horizontal flip on {chosen.name}: it would change the label", logger="current")
    if SPLITS[cfg.suite].holds_val(cfg.train_split):
        # The validation images are trained on: nothing is left to look at before the one test.
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    return cfg


def _shift(cfg: Config, dataset: Any) -> None:
    """Shift the test images; results name it as another variant of the data."""
    if cfg.suite != "mini":
        raise UserError(f"shift={cfg.shift!r}: only the embedded tasks have shifted versions; leave it out.")
    dataset.shift = cfg.shift
    cfg.data_variant = f"{cfg.data_variant.split(',')[0]}, {cfg.shift}"


def _choice(field: str, value: str, known: Any) -> None:
    if value not in known:
        raise UserError(f"unknown {field} {value!r}: {nearest(value, known)}")


def _square(size: int, augmentation: str, flip_safe: bool) -> list[dict[str, Any]]:
    resize = {"type": "Resize", "scale": (size, size), "interpolation": "bicubic"}
    if augmentation != "crop_flip":
        return _steps([resize], augmentation, flip_safe)
    return _steps([{**resize, "scale": (_larger(size),) * 2}, _random_crop(size)], augmentation, flip_safe)


def _edge(size: int, augmentation: str, flip_safe: bool) -> list[dict[str, Any]]:
    resize = {"type": "ResizeEdge", "scale": _larger(size), "edge": "short", "interpolation": "bicubic"}
    crop = _random_crop(size) if augmentation == "crop_flip" else {"type": "CenterCrop", "crop_size": size}
    return _steps([resize, crop], augmentation, flip_safe)


def _steps(sizing: list[dict[str, Any]], augmentation: str, flip_safe: bool) -> list[dict[str, Any]]:
    steps = [{"type": "vpeft.LoadImage"}, *sizing]
    if augmentation != "none" and flip_safe:
        steps.append({"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"})
    return [*steps, {"type": "PackInputs"}]


def _larger(size: int) -> int:
    """256 for 224."""
    return size * 8 // 7


def _random_crop(size: int) -> dict[str, Any]:
    return {"type": "RandomCrop", "crop_size": size}


#: Images become a square, or their shorter edge is set and what is tested is the centre.
RESIZES = {"square": _square, "edge": _edge}
