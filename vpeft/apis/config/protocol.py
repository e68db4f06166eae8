"""What makes a run an honest one, read off its config.

The protocol, with VTAB-1k's lists (:data:`~vpeft.core.datasets.tasks.SPLITS` has each suite's): settings are tuned on
``train800`` against ``val200``; the chosen one is trained again on all 1,000 images; the test set is looked at once, at
the last epoch, and never before. A config without splits (detection, segmentation, video) is held to the second half:
one look, at the end of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine import Config
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.registry import HOOKS as MMENGINE_HOOKS

from vpeft.apis.config.origin import set_by_command
from vpeft.apis.config.task import VALIDATION
from vpeft.core.datasets.tasks import SPLITS
from vpeft.registry import HOOKS

#: Whose hooks are known not to choose, but for :data:`CHOOSERS`.
KNOWN_PACKAGES = ("vpeft", "mmengine", "mmpretrain", "mmdet", "mmseg", "mmaction")
#: Hooks that choose a moment of the training by what the evaluator says, they and what is made of them; with options
#: that switch it on, if any.
CHOOSERS: dict[type[Hook], str | None] = {EarlyStoppingHook: None, CheckpointHook: "save_best"}


def one_look(cfg: Config) -> Config:
    """Take the validation out of a config, in place, where it would be on the data of the test.

    Usual configs of detection, segmentation and video validate on what they test on, every few epochs.
    """
    loader = cfg.get("val_dataloader")
    if loader is not None and _same_data(loader, cfg.get("test_dataloader")):
        set_by_command(cfg, dict.fromkeys(VALIDATION), "one look at the test set (validation would be another)")
    return cfg


def _same_data(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> bool:
    """Whether two loaders read the same samples; how they are read does not matter."""
    if a is None or b is None:
        return False

    def data(loader: Mapping[str, Any]) -> dict[str, Any]:
        dataset = dict(loader["dataset"])
        while isinstance(dataset.get("dataset"), Mapping):
            dataset = dict(dataset["dataset"])
        ways = ("pipeline", "test_mode", "lazy_init", "serialize_data", "metainfo", "backend_args", "return_classes")
        return {k: v for k, v in dataset.items() if k not in ways}

    return data(a) == data(b)


def protocol(cfg: Config, shots: int | None = None) -> dict[str, Any]:
    """What a run of a config looks at.

    Args:
        cfg: The effective config.
        shots: Images of each class that are trained on, None for all.

    Returns:
        ``train_split``, ``eval_split``, ``shots``, ``test_looks`` (how often the test set is evaluated), ``epoch``
        (which is tested), and ``faults``: how it departs from the protocol, in words; empty for an honest run.
    """
    looks, faults = 1, []
    train, test = cfg.get("train_split"), cfg.get("eval_split")
    if cfg.get("suite"):
        splits = SPLITS[cfg.suite]
        if train != splits.final:
            faults.append(f"trained on {train}, not again on {splits.final}")
        if test != splits.test:
            looks = 0
            faults.append(f"evaluated on {test}, not on the test set")
    if cfg.get("val_dataloader") is not None and _same_data(cfg.val_dataloader, cfg.get("test_dataloader")):
        loop = cfg.get("train_cfg") or {}
        length, interval = loop.get("max_epochs") or loop.get("max_iters") or 0, loop.get("val_interval", 1)
        looks += length // interval
        faults.append(f"the test set is validated on every {interval} of {length}")
    chosen = _choosers(cfg)
    if chosen:
        faults.append(f"{' and '.join(chosen)} may choose the epoch")
    if "TestTimeAug" in str((cfg.get("test_dataloader") or {}).get("dataset")):
        faults.append("tested with test-time augmentation")
    if cfg.get("authors_values"):
        faults.append("hyper-parameters of the authors' tables, most of which were chosen by test accuracy")
    return {
        "train_split": train,
        "eval_split": test,
        "shots": shots,
        "test_looks": looks,
        "epoch": "last",
        "faults": faults,
    }


def _choosers(cfg: Config) -> list[str]:
    found = []
    for hook in _hooks([*(cfg.get("custom_hooks") or ()), *(cfg.get("default_hooks") or {}).values()]):
        cls = _class_of(hook)
        name = str(hook.get("type") if cls is None else cls.__name__).rsplit(".", 1)[-1]
        by = next((option for kind, option in CHOOSERS.items() if cls is not None and issubclass(cls, kind)), "")
        if by is None or (by and _option(hook, by)) or (by == "" and _own_and_sees(cls) and cfg.get("val_dataloader")):
            found.append(name)
    return list(dict.fromkeys(found))


def _hooks(node: Any) -> Iterator[Mapping[str, Any] | Hook]:
    """The hooks of a config, those inside others and those that stand as objects included."""
    if isinstance(node, Hook):
        yield node
    elif isinstance(node, Mapping):
        if "type" in node:
            yield node
        yield from _hooks([value for key, value in node.items() if key != "type"])
    elif isinstance(node, (list, tuple)):
        for one in node:
            yield from _hooks(one)


def _class_of(hook: Mapping[str, Any] | Hook) -> type[Hook] | None:
    if isinstance(hook, Hook):
        return type(hook)
    cls = hook["type"]
    if isinstance(cls, str):
        cls = HOOKS.get(cls) or MMENGINE_HOOKS.get(cls)  # the second imports what a dotted path names
    return cls if isinstance(cls, type) and issubclass(cls, Hook) else None


def _option(hook: Mapping[str, Any] | Hook, name: str) -> Any:
    return getattr(hook, name, None) if isinstance(hook, Hook) else hook.get(name)


def _own_and_sees(cls: type[Hook] | None) -> bool:
    """Whether a hook of neither OpenMMLab nor this project is told what a validation gave."""
    if cls is None or cls.__module__.split(".")[0] in KNOWN_PACKAGES:
        return False
    return any(getattr(cls, name) is not getattr(Hook, name) for name in ("after_val_epoch", "after_val"))
