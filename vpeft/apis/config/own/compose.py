"""From a user's own data and options to a plain config, which ``tools/train.py`` runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine import Config

from vpeft.apis.config.keys.options import OPTIONS, check_keys, check_options
from vpeft.apis.config.load import head_settings
from vpeft.apis.config.origin import Origin, flatten, give_origin
from vpeft.apis.config.own.bases import BASES, DEFAULT, base_config
from vpeft.apis.config.own.clips import clip_settings
from vpeft.apis.config.own.defaults import AUGMENTATION, AUGMENTATIONS, RunNumbers, numbers_of, schedule
from vpeft.apis.config.own.images import image_settings
from vpeft.apis.config.own.networks import Network, library_network
from vpeft.apis.config.own.objects import object_settings
from vpeft.apis.config.own.parts import OwnParts
from vpeft.apis.config.own.regions import region_settings
from vpeft.core.backbones.libraries.preprocessing import CONSTANTS, Preprocessing
from vpeft.core.datasets.own.found import TEST, TRAIN, OwnData
from vpeft.core.datasets.own.inspect import OwnLook
from vpeft.errors import UserError, printable
from vpeft.registry import nearest

#: Side of the images of the models that are known by a name of this project's own, and the constants of their pixels.
OWN_SIZES = {
    "nano_vit": {"classification": 32, "segmentation": 64, "video": 32},
    "nano_swin": {"classification": 32, "segmentation": 64, "video": 32, "detection": 64, "instances": 64},
    "videomae_base": {"video": 224},
    "video_swin_base": {"video": 224},
}
_CONSTANTS = {"nano_vit": "inception", "nano_swin": "inception"}
#: Side of the images where a library's network is read as maps; classifiers take the network's own.
SIZES = {"detection": 800, "instances": 800, "segmentation": 512}

_PLACEHOLDER = "{{"
#: Options that a config has by another name.
_SAME = {
    "epochs": "train_cfg.max_epochs",
    "batch_size": "train_dataloader.batch_size",
    "lr": "optim_wrapper.optimizer.lr",
}


@dataclass(frozen=True)
class OwnOptions:
    """What a user may say beside their data; None leaves it to the defaults.

    Attributes:
        model: A library's network (``timm/vit_base_patch14_dinov2``), or one of this project's own (``nano_vit``).
        weights: Its file or folder.
        method: A row of the method tables: ``lora``.
        epochs: Passes over the training part.
        batch_size: Samples of a step.
        lr: Learning rate.
        image_size: Side of the images in pixels; of detection the shorter edge.
        seed: Of the division into parts and of the run.
        augmentation: ``none | crop | crop_flip``.
        normalisation: ``imagenet | inception | clip | none``, where nothing says what the network expects.
        random_base: Train on a base without weights, which is meant.
        options: Settings by dotted key (``--cfg-options``).
    """

    model: str | None = None
    weights: str | None = None
    method: str = "lora"
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    image_size: int | None = None
    seed: int = 0
    augmentation: str | None = None
    normalisation: str | None = None
    random_base: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse numbers that mean nothing."""
        for name in ("epochs", "batch_size", "lr", "image_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"--{name.replace('_', '-')} {value}: it must be a number above 0.")
        if self.augmentation is not None and self.augmentation not in AUGMENTATIONS:
            raise UserError(f"--augmentation {self.augmentation}: {nearest(self.augmentation, AUGMENTATIONS)}")


def own_config(
    seen: OwnLook,
    lists: Mapping[str, Path],
    options: OwnOptions,
    name: str = "own",
    chosen: tuple[str, Network | None] | None = None,
) -> Config:
    """The config that trains on a user's own data.

    Args:
        seen: Data that were looked at and divided.
        lists: The lists of their parts (:func:`~vpeft.core.datasets.own.lists.write_lists`).
        options: The user's.
        name: What the config is called, without an ending.
        chosen: What :func:`chosen_network` gave, where it was asked before.

    Raises:
        UserError: Model, method or an option do not fit the data or each other.
    """
    options.check()
    data = seen.data
    if strange := [name for name in (*data.classes, *map(str, lists.values()), str(data.root)) if _PLACEHOLDER in name]:
        raise UserError(
            f"{printable(strange[0])}: configs read {_PLACEHOLDER!r} as the start of a placeholder: rename it."
        )
    plan = numbers_of(data.family, len(data.part(TRAIN)), options.epochs, options.batch_size)
    kind, network = chosen or chosen_network(data.family, options)
    base = base_config(data.family, kind, options.method)
    parts = OwnParts(
        data.root,
        lists,
        data.classes,
        plan,
        _size(data.family, kind, network, options),
        options.augmentation or AUGMENTATION.get(data.family, "crop_flip"),
        network.preprocessing if network else _own_constants(kind, options),
        network,
    )
    settings = {**_of_family(data, base, parts, seen), **schedule(plan)}
    _finish(settings, options, parts, plan)
    cfg = Config(settings, cfg_text="# vpeft train DATA\n", filename=f"{name}.py")
    origin = Origin()
    give_origin(cfg, origin)
    origin.record("vpeft train DATA", cfg)
    origin.options = flatten(dict(options.options), into_lists=False)
    _refuse_contradictions(options, origin.options)
    check_options(cfg, options.options)
    try:
        cfg.merge_from_dict(dict(options.options))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{OPTIONS} {', '.join(options.options)}: it does not fit the config: {error}") from error
    check_keys(cfg, options.options, name)
    origin.record(OPTIONS, cfg, origin.options)
    widths = {key: width for key, width in head_settings(cfg).items() if key not in origin.options}
    cfg.merge_from_dict(widths)
    origin.record("the method", cfg, widths)
    return cfg


def _refuse_contradictions(options: OwnOptions, given: Mapping[str, Any]) -> None:
    for name, key in _SAME.items():
        value = getattr(options, name)
        if value is not None and given.get(key, value) != value:
            flag = f"--{name.replace('_', '-')} {value}"
            raise UserError(f"{flag} and {OPTIONS} {key}={given[key]} contradict each other: leave one out.")


def chosen_network(family: str, options: OwnOptions) -> tuple[str, Network | None]:
    """The key of the table of bases, and the network where it is a library's.

    Raises:
        UserError: As :func:`~vpeft.apis.config.own.networks.library_network`, or an option is of no effect.
    """
    model = options.model or DEFAULT[family]
    if options.model is None and options.weights:
        raise UserError(
            f"--weights {options.weights}: say of which network they are: --model timm/vit_base_patch14_dinov2."
        )
    if model in BASES[family] and model not in ("plain", "stages"):
        if options.random_base:
            raise UserError(f"--random-base: {model} comes with its weights: leave it out.")
        if options.weights is None and "nano" not in model:
            raise UserError(f"--model {model}: give its file: --weights FILE (docs/weights.md says which).")
        return model, None
    network = library_network(
        model, options.weights, family, options.image_size, options.normalisation, options.random_base
    )
    return network.kind, network


def _size(family: str, kind: str, network: Network | None, options: OwnOptions) -> int:
    if network is None:
        own = OWN_SIZES[kind][family]
        if options.image_size not in (None, own) and family in ("classification", "video"):
            raise UserError(f"--image-size {options.image_size}: {kind} takes images of {own} pixels: leave it out.")
        return options.image_size or own
    return options.image_size or SIZES.get(family, network.preprocessing.size)


def _own_constants(kind: str, options: OwnOptions) -> Preprocessing:
    name = _CONSTANTS.get(kind, "imagenet")
    if options.normalisation not in (None, name):
        raise UserError(f"--normalisation {options.normalisation}: {kind} was trained with {name}: leave it out.")
    mean, std = CONSTANTS[name]
    return Preprocessing(mean, std, 224)


def _of_family(data: OwnData, base: dict[str, Any], parts: OwnParts, seen: OwnLook) -> dict[str, Any]:
    if data.family == "classification":
        return image_settings(base, parts, data.multi_label)
    if data.family == "segmentation":
        return region_settings(base, parts)
    if data.family == "video":
        frames = bool(data.samples[0].frames)
        return clip_settings(base, parts, frames, min(fact.frames for fact in seen.facts))
    return object_settings(base, parts, data.family == "instances")


def _finish(settings: dict[str, Any], options: OwnOptions, parts: OwnParts, plan: RunNumbers) -> None:
    """What every family has."""
    if options.lr is not None:
        settings["optim_wrapper"]["optimizer"]["lr"] = options.lr
    if options.weights is not None and parts.network is None:
        settings["model"]["backbone"]["init_cfg"] = {"type": "Pretrained", "checkpoint": options.weights}
    best = {"save_best": settings["main_metric"], "rule": "greater"}
    saved = {
        "type": "CheckpointHook",
        "interval": plan.look,
        "by_epoch": True,
        "max_keep_ckpts": 1,
        "save_last": True,
        **best,
    }
    hooks = {**settings["default_hooks"], "checkpoint": saved, "logger": {"type": "LoggerHook", "interval": 10}}
    settings |= {
        "default_hooks": hooks,
        "log_processor": {"by_epoch": True},
        "randomness": {"seed": options.seed, "deterministic": True},
        "classes": list(parts.classes),
        "data_variant": "files",
        "load_from": None,
        "resume": False,
        "data_store": {"limit": None, "folder": None},
        "train_split": "train",
        "eval_split": "test" if TEST in parts.lists else "val",
    }
