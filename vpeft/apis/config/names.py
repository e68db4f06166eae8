"""What a config may be called: the path of a file, a config of a package, a recipe with a method."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vpeft.compat.mmengine import configs_of
from vpeft.errors import UserError

#: Where the configs are looked for that nobody has named by a path.
CONFIGS = "configs"


def located(path: str | os.PathLike[str]) -> Path:
    """The path that a config's name stands for: ``vpeft::detection/lora_swin-b_coco.py`` is one of the package's own.

    Raises:
        UserError: There is no such package, or it has no configs.
    """
    package, mark, name = str(path).partition("::")
    return configs_of(package, name) / name if mark else Path(path)


def configs_folder() -> Path:
    """The folder of the configs: that of the working directory, as in the repository, or else the package's own."""
    return Path(CONFIGS) if Path(CONFIGS, "_base_").is_dir() else configs_of("vpeft")


def shown_name(path: str | os.PathLike[str]) -> str:
    """A config as it is to be typed: one that only the package has as ``vpeft::<name>``."""
    own = configs_of("vpeft")
    inside = Path(path).is_absolute() and Path(path).is_relative_to(own)
    return f"vpeft::{Path(path).relative_to(own).as_posix()}" if inside else str(path)


def with_method(path: str, method: str | None) -> str:
    """The name of a recipe's config with a method.

    Args:
        path: ``configs/detection/swin-b_coco.py``, with a method; else any config, given back as it is.
        method: A row of the recipe's table, such as ``lora``.

    Returns:
        ``configs/detection/lora_swin-b_coco.py``.

    Raises:
        UserError: The path is the file of a config, which has its method.
    """
    if method is None:
        return path
    if located(path).is_file():
        raise UserError(
            f"--method {method}: {path} is a config that says itself what is trained: leave --method out, set "
            "model.backbone.method by --cfg-options, or name a recipe, such as configs/detection/swin-b_coco.py."
        )
    return re.sub(r"([^/\\:]*)$", lambda name: f"{method}_{name[1]}", path, count=1)
