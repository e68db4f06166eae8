"""Sections of a config that no class takes whole: which keys are read of them; another would change nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from mmengine import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, LogProcessor, Runner, TestLoop, ValLoop
from mmengine.utils import import_modules_from_strings
from mmengine.utils.dl_utils import set_multi_processing
from torch.utils.data import DataLoader

from vpeft.core.adaptation.training.parameter_groups import OWN_KEYS, PARAMWISE
from vpeft.core.hooks.data_store import STORE_KEYS
from vpeft.core.hooks.feature_cache import FeatureCacheHook
from vpeft.errors import closest
from vpeft.registry import nearest

#: How like a known key another one must be to be taken for a slip of it, where a name of one's own is allowed: the
#: least that no config of OpenMMLab's packages has.
SLIP, SLIP_IN_MODEL = 0.85, 0.9
#: What the Runner hands over itself.
_HANDED = {"self", "runner", "dataloader", "evaluator", "model", "parameters", "distributed", "launcher"}
#: The Runner's hooks by the names under which a config sets them.
HOOK_NAMES = frozenset({"runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"})
#: Constructors of the optimiser's groups that read these keys of ``paramwise_cfg`` and no others.
_CONSTRUCTORS = {"DefaultOptimWrapperConstructor": PARAMWISE, "PEFTOptimWrapperConstructor": PARAMWISE | OWN_KEYS}
#: Keys of ``model.train_cfg`` and ``model.test_cfg``, which each model reads as it likes: slips of these are refused.
_MODEL = {
    *("augments", "mode", "crop_size", "stride", "average_clips", "max_testing_views", "feature_extraction"),
    *("rpn", "rcnn", "rpn_proposal", "nms_pre", "max_per_img", "max_per_image", "nms", "min_bbox_size", "score_thr"),
    *("mask_thr_binary", "assigner", "sampler", "allowed_border", "pos_weight", "mask_size"),
}


def _takes(*called: Callable[..., Any], also: tuple[str, ...] = ()) -> frozenset[str]:
    """What functions and classes take by keyword, and further keys."""
    found = {
        name
        for one in called
        for name, parameter in inspect.signature(one).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and not name.startswith("_")
    }
    return frozenset((found - _HANDED) | set(also))


_Known = Callable[[Mapping[str, Any]], frozenset[str] | None]


def _untyped(keys: frozenset[str]) -> _Known:
    """Of a section that has no ``type``; one that has is for its class."""
    return lambda node: None if "type" in node else keys


def _fixed(keys: frozenset[str]) -> _Known:
    return lambda node: keys


def _loop(node: Mapping[str, Any]) -> frozenset[str] | None:
    loops = (EpochBasedTrainLoop, IterBasedTrainLoop)
    if "by_epoch" in node:
        loops = loops[:1] if node["by_epoch"] else loops[1:]
    return None if "type" in node else _takes(*loops, also=("by_epoch",))


def _class_name(named: Any) -> str:
    """``CheckpointHook`` for the class, and for ``mmengine.CheckpointHook``."""
    return named.rpartition(".")[2] if isinstance(named, str) else getattr(named, "__name__", "")


_LOADER = _untyped(
    _takes(DataLoader, also=("sampler", "batch_sampler", "worker_init_fn", "collate_fn", "num_batch_per_epoch"))
)
_HOOK = ("type", "priority")
#: Known keys by the section that has no others.
CLOSED: dict[str, _Known] = {
    "env_cfg": _fixed(frozenset({"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"})),
    "env_cfg.mp_cfg": _fixed(_takes(set_multi_processing)),
    "env_cfg.dist_cfg": _fixed(_takes(torch.distributed.init_process_group, also=("init_backend", "port"))),
    "randomness": _fixed(_takes(Runner.set_randomness)),
    "custom_imports": _fixed(_takes(import_modules_from_strings)),
    "auto_scale_lr": _fixed(frozenset({"enable", "base_batch_size"})),
    "log_processor": _untyped(_takes(LogProcessor)),
    "compile": _fixed(_takes(torch.compile)),
    "train_cfg": _loop,
    "val_cfg": _untyped(_takes(ValLoop)),
    "test_cfg": _untyped(_takes(TestLoop)),
    "train_dataloader": _LOADER,
    "val_dataloader": _LOADER,
    "test_dataloader": _LOADER,
    # it takes any keyword, and hands it to a function that does not when the first checkpoint is due
    "default_hooks.checkpoint": lambda node: (
        _takes(CheckpointHook, also=_HOOK) if _class_name(node.get("type")) == "CheckpointHook" else None
    ),
    # mmengine's word for which of two functions is called
    "optim_wrapper.clip_grad": _fixed(
        _takes(torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad_value_, also=("type",))
    ),
    "feature_cache": _fixed(_takes(FeatureCacheHook)),
    "data_store": _fixed(frozenset(STORE_KEYS)),
}


def section_faults(cfg: Config) -> Iterator[tuple[str, str]]:
    """Keys that nobody reads, in the sections whose keys are known.

    Args:
        cfg: The config, with the user's options.

    Yields:
        The dotted key, and what is wrong with it.
    """
    settings = cfg._cfg_dict
    for path, known in CLOSED.items():
        node = _inside(settings, path)
        if node is not None and (keys := known(node)) is not None:
            yield from ((f"{path}.{key}", f"{path} has no {key!r}: {nearest(key, keys)}") for key in _own(node, keys))
    yield from _hook_faults(_inside(settings, "default_hooks") or {})
    yield from _optimiser_faults(_inside(settings, "optim_wrapper") or {})
    for path in ("model.train_cfg", "model.test_cfg"):
        yield from _slips(_at(settings, path), path, _MODEL)


def _at(node: Any, path: str) -> Any:
    for name in path.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _inside(node: Any, path: str) -> Mapping[str, Any] | None:
    """The section, where there is one."""
    return found if isinstance(found := _at(node, path), Mapping) else None


def _own(node: Mapping[str, Any], keys: frozenset[str] | set[str]) -> list[str]:
    return [str(key) for key in node if key not in keys and not str(key).startswith("_")]


def _hook_faults(hooks: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A hook of one's own has a name of its own, and says its type."""
    for name in _own(hooks, HOOK_NAMES):
        hook = hooks[name]
        is_own = "type" in hook if isinstance(hook, Mapping) else hook is not None
        close = closest(name, HOOK_NAMES, SLIP)
        if close is not None or not is_own:
            told = nearest(name, HOOK_NAMES)
            yield f"default_hooks.{name}", f"default_hooks has no {name!r}, and a hook of one's own has a type: {told}"


def _optimiser_faults(wrapper: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    path, node = "optim_wrapper.paramwise_cfg", _inside(wrapper, "paramwise_cfg") or {}
    if (keys := _CONSTRUCTORS.get(_class_name(wrapper.get("constructor") or "DefaultOptimWrapperConstructor"))) is None:
        return
    yield from ((f"{path}.{key}", f"{path} has no {key!r}: {nearest(key, keys)}") for key in _own(node, keys))
    # every other key of a group is the optimiser's
    yield from _slips(_at(node, "custom_keys"), f"{path}.custom_keys", {"lr_mult", "decay_mult"})


def _slips(node: Any, path: str, known: set[str]) -> Iterator[tuple[str, str]]:
    """Near misses of known keys, at any depth below a section."""
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    if not isinstance(node, Mapping) or "type" in node:
        return
    for key in _own(node, known):
        if (close := closest(key, known, SLIP_IN_MODEL)) is not None:
            yield f"{path}.{key}", f"{path} has {key!r}, and no {close!r}, which it is like: correct it"
    for key, value in node.items():
        yield from _slips(value, f"{path}.{key}", known)
