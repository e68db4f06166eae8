"""What follows from the choice of a task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmengine import Config
from mmengine.logging import print_log

from vpeft.core.backbones.libraries.preprocessing import CONSTANTS
from vpeft.core.datasets.tasks import SPLITS, check_split, get_task
from vpeft.errors import UserError
from vpeft.registry import nearest

#: Mean and standard deviation in 0..255, RGB.
NORMALISATIONS = {name: (list(mean), list(std)) for name, (mean, std) in CONSTANTS.items()}
AUGMENTATIONS = ("none", "flip", "crop_flip")
#: In the place of a choice that the user has replaced by settings of their own.
OWN = "own"

#: Fields that choose: what follows from each is set by :func:`task_settings`.
FIELDS = (
    "suite",
    "task",
    "data_root",
    "data_variant",
    "image_size",
    "train_split",
    "eval_split",
    "normalisation",
    "augmentation",
    "resize",
    "shift",
    "authors_values",
    "per_task",
    "main_metric",
    "tuned",
)
_LOADERS = ("train", "val", "test")
#: Of an image, in pixels.
LONGEST_SIDE = 1 << 14
#: What is None in a config that does not validate.
VALIDATION = ("val_dataloader", "val_evaluator", "val_cfg")


def follows(cfg: Config, key: str) -> str | bool:
    """Whether a key of a suite's config is set by :func:`task_settings`.

    Returns:
        The field that it follows from, where it says the same in other words; True where the user's own value may stand
        in its place; False for every other key.
    """
    if not cfg.get("suite"):
        return False
    loader, _, inner = key.partition("_dataloader.dataset.")
    if loader in _LOADERS and inner:
        split = {"train": "train_split", "val": "train_split", "test": "eval_split"}[loader]
        fields = {"task": "task", "split": split, "pipeline": True}
        if "data_root" in cfg:
            fields["data_root"] = "data_root"
        if loader == "test":
            fields["shift"] = "shift"
        return fields.get(inner.split(".")[0], False)
    fields = {
        "model.head.num_classes": "task",
        "data_preprocessor.num_classes": "task",
        "data_preprocessor.mean": True,
        "data_preprocessor.std": True,
    }
    if "img_size" in cfg.get("model", {}).get("backbone", {}):
        fields["model.backbone.img_size"] = "image_size"
    if cfg.get("shift"):
        fields["data_variant"] = "shift"
    return fields.get(key, False)


def chosen_by_hand(cfg: Config, options: Iterable[str]) -> dict[str, str]:
    """The choices that a user's options have replaced, named so: a config that is read again keeps them."""
    if not cfg.get("suite"):
        return {}
    by_hand = [key for key in options if follows(cfg, key) is True]
    replaced = {
        "augmentation": any("pipeline" in key for key in by_hand),
        "normalisation": any(key.startswith("data_preprocessor.") for key in by_hand),
    }
    return {field: OWN for field, is_own in replaced.items() if is_own}


def task_settings(cfg: Config) -> dict[str, Any]:
    """Everything in a config that its task, splits, normalisation and augmentation decide, by dotted key.

    Args:
        cfg: A config with the fields of ``configs/_base_/datasets/``; from one without ``suite`` nothing follows.

    Raises:
        UserError: Unknown task, split, normalisation, augmentation or shift; the message names the nearest. Or a size
            that no image has.
    """
    if not cfg.get("suite"):
        return {}
    chosen = get_task(cfg.task, cfg.suite)
    for split in (cfg.train_split, cfg.eval_split):
        check_split(split, cfg.suite)
    resize = cfg.get("resize", "square")
    _choice("normalisation", cfg.normalisation, (*NORMALISATIONS, OWN))
    _choice("augmentation", cfg.augmentation, (*AUGMENTATIONS, OWN))
    _choice("resize", resize, RESIZES)
    size = cfg.get("image_size")
    if size is not None and (type(size) is not int or not 1 <= size <= LONGEST_SIDE):
        raise UserError(f"image_size={size!r} must be the side of the images, a whole number from 1 to {LONGEST_SIDE}.")

    settings = {"task": chosen.name, "data_preprocessor.num_classes": chosen.num_classes}
    if cfg.normalisation != OWN:
        mean, std = NORMALISATIONS[cfg.normalisation]
        settings |= {"data_preprocessor.mean": mean, "data_preprocessor.std": std}
    if "model" in cfg:
        settings["model.head.num_classes"] = chosen.num_classes
        if "img_size" in cfg.model.backbone:
            settings["model.backbone.img_size"] = cfg.image_size
    splits = {"train": cfg.train_split, "val": SPLITS[cfg.suite].val, "test": cfg.eval_split}
    looks = not SPLITS[cfg.suite].holds_val(cfg.train_split)
    for name, split in splits.items():
        loader = cfg.get(f"{name}_dataloader")
        if loader is None or (name == "val" and not looks):
            continue
        inside = {"task": chosen.name, "split": split}
        if "data_root" in cfg:
            inside["data_root"] = cfg.data_root
        if name == "test" and cfg.get("shift"):
            inside["shift"] = cfg.shift
        if cfg.augmentation != OWN or not loader.dataset.get("pipeline"):
            augmentation = cfg.augmentation if name == "train" and cfg.augmentation != OWN else "none"
            inside["pipeline"] = RESIZES[resize](cfg.image_size, augmentation, chosen.flip_safe)
        settings |= {f"{name}_dataloader.dataset.{key}": value for key, value in inside.items()}
    if cfg.get("shift"):
        settings["data_variant"] = _shifted(cfg)
    if cfg.augmentation not in ("none", OWN) and not chosen.flip_safe:
        print_log(f"no horizontal flip on {chosen.name}: it would change the label", logger="current", level=30)
    if not looks:
        # The validation images are trained on: nothing is left to look at before the one test.
        settings |= dict.fromkeys(VALIDATION)
    return settings


def _shifted(cfg: Config) -> str:
    """Results name shifted test images as another variant of the data."""
    if not SPLITS[cfg.suite].shifted:
        raise UserError(f"shift={cfg.shift!r}: only the embedded tasks have shifted versions; leave it out.")
    from vpeft.core.datasets.embedded.shifts import parse_shift  # which draws, so that most configs do without

    parse_shift(cfg.shift, cfg.task)
    return f"{cfg.data_variant.split(',')[0]}, {cfg.shift}"


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
