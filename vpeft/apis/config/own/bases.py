"""The configs that a user's own data are put into: models, methods' sizes, learning rates and hooks are theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpeft.apis.config.listing import config_names
from vpeft.apis.config.load import load_config
from vpeft.apis.config.names import configs_folder
from vpeft.errors import UserError
from vpeft.registry import nearest

#: By family and model. ``plain`` and ``stages`` are networks of libraries, of one resolution and of several; the other
#: names are those of ``--model``.
BASES: dict[str, dict[str, str]] = {
    "classification": {
        "nano_vit": "mini/{}_nano_vit.py",
        "nano_swin": "mini/{}_nano_swin.py",
        "plain": "vtab/{}_vit.py",
        "stages": "vtab/{}_swin.py",
    },
    "detection": {
        "nano_swin": "mini/{}_nano_swin_detection.py",
        "plain": "detection/{}_dinov3-b_coco.py",
        "stages": "detection/{}_swin-b_coco.py",
    },
    "instances": {
        "nano_swin": "mini/{}_nano_swin_instances.py",
        "plain": "detection/{}_dinov3-b_coco.py",
        "stages": "detection/{}_swin-b_coco.py",
    },
    "segmentation": {
        "nano_vit": "mini/{}_nano_vit_segmentation.py",
        "nano_swin": "mini/{}_nano_swin_segmentation.py",
        "plain": "segmentation/{}_dinov3-b_ade20k.py",
        "stages": "segmentation/{}_swin-l_ade20k.py",
    },
    "video": {
        "nano_vit": "mini/{}_nano_vit_video.py",
        "nano_swin": "mini/{}_nano_swin_video.py",
        "videomae_base": "video/{}_vit-b_k400.py",
        "video_swin_base": "video/{}_swin-b_k400.py",
        "plain": "video/{}_clip-vit-b_k400.py",
        "stages": "video/{}_swin-b_k400.py",
    },
}
#: What is trained where no model is named: shipped, tiny, and at once there.
DEFAULT = {
    "classification": "nano_vit",
    "detection": "nano_swin",
    "instances": "nano_swin",
    "segmentation": "nano_vit",
    "video": "nano_vit",
}
#: Fields of those configs that do not speak of their own data or of their length.
KEPT = (
    "model",
    "data_preprocessor",
    "default_scope",
    "custom_imports",
    "custom_hooks",
    "default_hooks",
    "optim_wrapper",
    "auto_scale_lr",
    "env_cfg",
    "vis_backends",
    "visualizer",
    "log_level",
    "load_from",
    "resume",
    "randomness",
    "sync_bn",
)


def own_models(family: str) -> list[str]:
    """Models that are known by a name of this project's own."""
    return [name for name in BASES[family] if name not in ("plain", "stages")]


def base_config(family: str, model: str, method: str) -> dict[str, Any]:
    """The config of a method on a model, without what speaks of other data.

    Args:
        family: Of the task.
        model: A key of :data:`BASES` of the family.
        method: A row of the method tables: ``lora``.

    Raises:
        UserError: There is no such method, or it is not for this family; the message says why.
    """
    path = configs_folder() / BASES[family][model].format(method)
    try:
        cfg = load_config(path)
    except UserError as error:
        said = str(error)
        if " is not for this recipe: " in said:
            reason = said.partition(" is not for this recipe: ")[2]
            raise UserError(f"--method {method} is not for {family} on this model: {reason}") from error
        known = own_methods(family, model)
        if method in known:
            raise
        raise UserError(f"--method {method}: {nearest(method, known)}") from error
    return {key: value for key, value in cfg._cfg_dict.to_dict().items() if key in KEPT}


def own_methods(family: str, model: str) -> list[str]:
    """The methods that there are for a model."""
    pattern = configs_folder() / BASES[family][model]
    ending = pattern.name.removeprefix("{}")
    names = [Path(name).name for name in config_names(pattern.parent)]
    return sorted(name.removesuffix(ending) for name in names if name.endswith(ending))
