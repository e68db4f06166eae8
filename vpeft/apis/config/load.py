"""Configs as the tools read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine import Config

from vpeft.apis.config.authors_values import authors_settings
from vpeft.apis.config.keys.options import OPTIONS, check_keys, check_options, open_sizes
from vpeft.apis.config.listing import config_names
from vpeft.apis.config.names import located, shown_name
from vpeft.apis.config.origin import ABSENT, RESUME, Origin, flatten, give_origin, is_inside, origin_of, stored_origin
from vpeft.apis.config.recipes import compose, is_recipe
from vpeft.apis.config.task import VALIDATION, chosen_by_hand, follows, task_settings
from vpeft.core.adaptation.peft_backbone import peft_places, plain_settings, stated_methods
from vpeft.core.contract.method import Method
from vpeft.core.models.build import build_model as build_model
from vpeft.core.models.build import meta_build
from vpeft.core.models.channels import HEADS, method_width
from vpeft.core.trained.folder import ORIGIN
from vpeft.errors import UserError, closest
from vpeft.files import read_config, unreadable
from vpeft.registry import PEFT_METHODS


def head_settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """``in_channels`` of the heads behind a method whose features have a width of its own, by dotted key.

    The width follows from the method's options and the host, so the backbone is built to ask for it, without memory.
    Where that fails, whoever builds it next says why.
    """
    found = {}
    for place, settings in peft_places(cfg).items():
        names = [one.get("type") for one in stated_methods(settings) if isinstance(one, Mapping)]
        classes = filter(None, (PEFT_METHODS.get(name) for name in names if isinstance(name, str)))
        if all(cls.out_width is Method.out_width for cls in classes):
            continue
        width = _width_given(cfg, settings)
        owner, model = place.rpartition(".")[0], cfg
        for key in owner.split("."):
            model = model[int(key)] if isinstance(model, (list, tuple)) else model[key]
        for head in HEADS if width is not None else ():
            if isinstance(model.get(head), Mapping) and isinstance(model[head].get("in_channels"), int):
                found[f"{owner}.{head}.in_channels"] = width
    return found


def _width_given(cfg: Mapping[str, Any], settings: Mapping[str, Any]) -> int | None:
    from mmengine.registry import MODELS, DefaultScope

    try:
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope") or "mmengine"), meta_build():
            return method_width(MODELS.build(dict(settings)))
    except (UserError, ImportError):
        return None


def _machine_settings(cfg: Config) -> dict[str, Any]:
    """What follows from the machine."""
    has_backend = not torch.cuda.is_available() and cfg.get("env_cfg", {}).get("dist_cfg")
    return {"env_cfg.dist_cfg.backend": "gloo"} if has_backend else {}


#: How a config comes to be: each step stands above those before it, and sets the keys that it returns.
#: 1. the file with its bases, or 2. a recipe, its data set and the method's row (:mod:`~vpeft.apis.config.recipes`);
#: 3. to 6. are these functions;
#: 7. what a command sets later, by flags such as ``--seed`` (:func:`~vpeft.apis.config.origin.set_by_command`);
#: 8. the user's own options: they are put in last, and what would put one of them back is refused.
#: Options that choose, such as the task, act in the step that asks for them.
STEPS: tuple[tuple[str, Callable[[Config], dict[str, Any]]], ...] = (
    ("the task", task_settings),
    ("the authors' values", authors_settings),
    ("the method", head_settings),
    ("the machine", _machine_settings),
)


def load_config(
    path: str | os.PathLike[str], task: str | None = None, options: Mapping[str, Any] | None = None
) -> Config:
    """Read a config, put the options in, and set what follows from its task (:data:`STEPS`).

    Args:
        path: The config file, or the name of one that is composed (:mod:`vpeft.apis.config.recipes`); one that comes
            with the package as ``vpeft::detection/lora_swin-b_coco.py``.
        task: A task of the config's suite (``--task``); class count, safe augmentation and folders follow.
        options: Further settings by dotted key (``--cfg-options``); they stand above everything else.

    Raises:
        UserError: The file is missing or broken (the message names the nearest config), sets what nobody reads, or an
            option is of no effect: of an unknown field, or of a value that follows from another field, which the
            message names.
    """
    cfg = _read(located(path), str(path))
    origin = origin_of(cfg)
    origin.options = flatten(dict(options or {}), into_lists=False)
    open_sizes(cfg, options or {})
    check_options(cfg, options or {})
    early = {key: value for key, value in (options or {}).items() if not follows(cfg, key)}
    _merge(cfg, early)
    origin.record(OPTIONS, cfg, early)
    check_keys(cfg, options or {}, str(path))
    if cfg.get("suite"):
        if task is not None and origin.options.get("task", task) != task:
            raise UserError(f"--task {task} and --cfg-options task={origin.options['task']} contradict each other.")
        cfg.task = task or cfg.task
    elif task is not None:
        raise UserError(f"config {path} has no task to choose (no `suite` field): leave --task {task} out.")
    if task is not None:
        origin.record("--task", cfg, ["task"])
    for name, settings in STEPS:
        found = settings(cfg)
        cfg.merge_from_dict(found)
        origin.record(name, cfg, found)
    _put_last(cfg, origin)
    return cfg


def _read(path: Path, name: str) -> Config:
    """The file with its bases, or the recipe with the method's row, and the record of it."""
    if unreadable(path) == "does not exist":
        cfg = compose(path)
    else:
        cfg = read_config(path)
        origin = stored_origin(path)
        give_origin(cfg, origin or Origin())
        if origin is not None:
            _forget_start(cfg, origin)
        origin_of(cfg).record(str(path), cfg, file=str(path) if origin is None else None)
    if cfg is None:
        _refuse_unknown(path, name)
    return cfg


def _refuse_unknown(path: Path, name: str) -> NoReturn:
    if is_recipe(path):
        raise UserError(
            f"config {name} is a recipe, which needs a method: --method lora, or the name lora_{path.name}; vpeft list "
            "configs names all."
        )
    known = {"/".join(Path(config).parts[-2:]): shown_name(config) for config in config_names()}
    close = closest("/".join(path.parts[-2:]), known)
    question = "" if close is None else f"did you mean {known[close]!r}? "
    raise UserError(f"config {name} does not exist: {question}vpeft list configs names all.")


def _forget_start(cfg: Config, origin: Origin) -> None:
    """From where a run was resumed is no part of the config that it has written."""
    origin._last = {key: step.keys[key][1] for step in origin.steps for key in step.keys}
    for step in origin.steps:
        if step.name == RESUME:
            for key in ("resume", "load_from"):
                before = step.keys.get(key, (None,))[0]
                cfg[key] = None if before == ABSENT else before
            return


def _merge(cfg: Config, options: Mapping[str, Any]) -> None:
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        keys = ", ".join(options)
        raise UserError(f"{OPTIONS} {keys}: it does not fit the config: {error}") from error


def _put_last(cfg: Config, origin: Origin) -> None:
    """Put the user's values where a step has set others; those that have no place to stand are refused."""
    now = flatten(cfg._cfg_dict.to_dict())
    back = {}
    removed = VALIDATION if cfg.get("suite") and cfg.get("val_dataloader") is None else ()
    for key, value in origin.options.items():
        if value is not None and any(is_inside(key, one) for one in removed):
            raise UserError(
                f"{OPTIONS} {key}={value!r} is of no effect: train_split={cfg.train_split} trains on the images of "
                "validation, so there is none: set another train_split, or leave it out."
            )
        if key in now and now[key] == value:
            continue
        if field := follows(cfg, key):
            wanted = now.get(key, "nothing")
            if field is not True:
                raise UserError(f"{OPTIONS} {key}={value!r}: {wanted!r} follows from {field}: set that instead.")
        back[key] = value
    for key, value in back.items():
        _merge(cfg, {key: value})
    _merge(cfg, chosen_by_hand(cfg, origin.options))
    origin.record(OPTIONS, cfg, back)


def default_work_dir(
    path: str | os.PathLike[str], cfg: Config, seed: int | None = None, checkpoint: str | None = None
) -> str:
    """``work_dirs/<config>[_<task>][_seed<seed>]``, or the user's own ``--cfg-options work_dir=...``.

    A run's ``checkpoint`` that is tested has its result beside it.
    """
    if own := origin_of(cfg).options.get("work_dir"):
        return own
    if checkpoint is not None and (Path(checkpoint).parent / ORIGIN).is_file():
        return str(Path(checkpoint).parent)
    parts = (located(path).stem, cfg.get("task"), None if seed is None else f"seed{seed}")
    return os.path.join("work_dirs", "_".join(filter(None, parts)))


def plain_config(cfg: Config) -> Config:
    """The config without PEFT: every ``vpeft.PEFT`` becomes the backbone that it is of."""
    plain = Config(cfg._cfg_dict.to_dict())
    for field in plain.keys() & {"model", "tta_model"}:
        for backbone in peft_places({"model": plain[field]}).values():
            settings = plain_settings(backbone)
            backbone.clear()
            backbone.update(settings)
    ours = ("vpeft.PEFTHook",)
    plain.custom_hooks = [hook for hook in plain.get("custom_hooks", []) if hook["type"] not in ours]
    return plain
