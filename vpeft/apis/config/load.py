"""Configs as the tools read them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine import Config

from vpeft.apis.config.recipes import compose, composed_files
from vpeft.core.models.build import build_model as build_model
from vpeft.errors import UserError
from vpeft.registry import nearest


def config_files(root: str | os.PathLike[str] = "configs") -> list[str]:
    """Leaf configs below ``root`` that are files, sorted; ``_base_`` files are left out."""
    files = Path(root).rglob("*.py") if Path(root).is_dir() else []
    return sorted(str(f) for f in files if "_base_" not in f.parts)


def config_names(root: str | os.PathLike[str] = "configs") -> list[str]:
    """Every config below ``root`` that :func:`load_config` reads: files, and those composed of recipe and method."""
    return sorted({*config_files(root), *composed_files(root)})


def load_config(
    path: str | os.PathLike[str], task: str | None = None, options: Mapping[str, Any] | None = None
) -> Config:
    """Read a config, put the options in, and set what follows from its task.

    Args:
        path: The config file, or the name of one that is composed (:mod:`vpeft.apis.config.recipes`).
        task: A task of the config's suite (``--task``); class count, safe augmentation and folders follow.
        options: Further settings by dotted key (``--cfg-options``).

    Raises:
        UserError: The file is missing or broken; the message names the nearest config.
    """
    path = Path(path)
    try:
        cfg = Config.fromfile(str(path)) if path.is_file() else compose(path)
    except (SyntaxError, KeyError, FileNotFoundError, NameError) as error:
        raise UserError(f"config {path} cannot be read: {type(error).__name__}: {error}") from error
    if cfg is None:
        known = {Path(f).name: f for f in config_names()}
        raise UserError(f"config {path} does not exist: {nearest(path.name, known) if known else 'no configs here'}")
    if options:
        cfg.merge_from_dict(dict(options))
    if cfg.get("suite"):
        from vpeft.apis.config.authors_values import use_authors_values
        from vpeft.apis.config.task import configure_task

        if cfg.get("authors_values"):
            use_authors_values(cfg, task)
            cfg.merge_from_dict(dict(options or {}))  # what is asked for by hand goes before the table
        configure_task(cfg, task)
    elif task is not None:
        raise UserError(f"config {path} has no task to choose (no `suite` field): leave --task {task} out.")
    if not torch.cuda.is_available() and cfg.get("env_cfg", {}).get("dist_cfg"):
        cfg.env_cfg.dist_cfg.backend = "gloo"
    return cfg


def default_work_dir(path: str | os.PathLike[str], cfg: Config) -> str:
    """``work_dirs/<config>[_<task>]``."""
    task = cfg.get("task")
    return os.path.join("work_dirs", Path(path).stem + (f"_{task}" if task else ""))


def plain_config(cfg: Config) -> Config:
    """The config without PEFT: every ``vpeft.PEFT`` becomes the backbone that it is of."""
    plain = Config(cfg._cfg_dict.to_dict())

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "vpeft.PEFT":
                node["type"] = node.pop("of")
                node.pop("method")
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(plain._cfg_dict)
    ours = ("vpeft.PEFTHook",)
    plain.custom_hooks = [hook for hook in plain.get("custom_hooks", []) if hook["type"] not in ours]
    return plain
