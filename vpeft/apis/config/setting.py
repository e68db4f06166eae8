"""What of a config makes a run another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from mmengine import Config

from vpeft.apis.config.load import load_config
from vpeft.apis.config.origin import give_origin, is_given, origin_of, set_by_command
from vpeft.apis.config.protocol import one_look, protocol
from vpeft.apis.config.shots import few_shot
from vpeft.apis.results.files import digest
from vpeft.core.datasets.lists_digest import lists_digest
from vpeft.errors import UserError

#: Set on a config for where and how it runs, not for what comes out.
NOT_CONTENT = {
    "work_dir",
    "launcher",
    "log_level",
    "experiment_name",
    "visualizer",
    "vis_backends",
    "data_root",
    "per_task",
    "resume",
    "tuned",
    "methods_table",
    "without",
    "feature_cache",
    "data_store",
    "strategy",
}


#: Default hooks that only watch, and others that do by their type.
WATCHERS = {"timer", "logger", "checkpoint", "visualization"}
WATCHING = {"vpeft.LogitsHook"}


def setting_hash(cfg: Config) -> str:
    """What a setting is known by: SHA-256 of the effective config, data variant included, seed not.

    Paths of data and work, logging, and where a tuned setting came from are left out: they change nothing. What the
    data's lists hold is in it, where the folder is there, and so is what chooses a checkpoint. Whether features are
    kept is left out, but a fixed number of views of each image is not.
    """

    def content(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {str(k): content(v) for k, v in node.items() if k not in NOT_CONTENT}
        if isinstance(node, (list, tuple)):
            return [content(v) for v in node]
        return node if isinstance(node, (str, int, float, bool, type(None))) else repr(node)

    whole = content(cfg.to_dict())
    whole["default_hooks"] = {k: v for k, v in whole.get("default_hooks", {}).items() if k not in WATCHERS}
    if hooks := whole.get("custom_hooks"):
        whole["custom_hooks"] = [hook for hook in hooks if hook.get("type") not in WATCHING]
    whole.get("randomness", {}).pop("seed", None)
    whole |= {key: value for key, value in _beside(cfg).items() if value}
    if views := (cfg.get("feature_cache") or {}).get("views"):
        whole["views"] = views
    return digest(whole)


def _beside(cfg: Config) -> dict[str, Any]:
    """What changes a result and stands in sections that are left out otherwise; what is empty says nothing."""
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    loaders = [cfg.get(f"{name}_dataloader") for name in ("train", "val", "test")]
    return {
        "per_task": cfg.per_task.to_dict() if cfg.get("authors_values") and cfg.get("per_task") else None,
        "chosen_by": {key: checkpoint[key] for key in ("save_best", "rule") if checkpoint.get(key)},
        "lists": lists_digest([loader["dataset"] for loader in loaders if loader]),
    }


def effective_config(config: str, task: str | None, options: Mapping[str, Any], variant: Mapping[str, Any]) -> Config:
    """What a run is made from: the config with its task, options and variant, its one look at the test set."""
    changes = {k: v for k, v in {**options, **variant}.items() if k != "shots"}
    cfg = one_look(load_config(config, task, changes))
    if not cfg.get("data_variant"):
        raise UserError(f"{config} does not say which data it reads: set data_variant='files' in it, or in options.")
    if (shots := variant.get("shots")) is not None:
        try:
            set_by_command(cfg, {"train_dataloader.dataset.indices": few_shot(cfg, shots)}, f"shots={shots}")
        except UserError as error:
            raise UserError(f"{config}{f' on {task}' if task else ''}: {error}") from error
    return cfg


@cache
def _setting(config: str, task: str | None, changes: str) -> tuple[str, dict[str, Any]]:
    """Hash and protocol of a setting, once for all its seeds."""
    options, variant = json.loads(changes)
    cfg = effective_config(config, task, options, variant)
    return setting_hash(cfg), protocol(cfg, variant.get("shots"))


class WrittenOnce(Config):
    """A config that is written out once: mmengine asks for its formatted text five times in a run, which for a run of
    seconds is most of it.
    """

    @classmethod
    def of(cls, cfg: Config) -> WrittenOnce:
        """The same config."""
        return cfg if isinstance(cfg, cls) else cls._with(cfg)

    @classmethod
    def _with(cls, cfg: Config, **changes: Any) -> WrittenOnce:
        own = cls({**cfg.to_dict(), **changes}, cfg_text=cfg.text, filename=cfg.filename)
        give_origin(own, origin_of(cfg))
        return own

    @property
    def pretty_text(self) -> str:
        """As mmengine's."""
        content = repr(self._cfg_dict)
        if content not in _texts:
            _texts.clear()
            _texts[content] = super().pretty_text
        return _texts[content]


class QuickConfig(WrittenOnce):
    """One of many runs: quiet, where the user does not say otherwise."""

    @classmethod
    def of(cls, cfg: Config) -> QuickConfig:
        """The same config, quiet."""
        return cls._with(cfg, **({} if is_given(cfg, "log_level") else {"log_level": "ERROR"}))


#: Of the config that was written out last.
_texts: dict[str, str] = {}
