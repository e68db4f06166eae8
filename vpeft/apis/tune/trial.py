"""One trial of a search: training on the suite's list for it (``train800``), looks at its validation images
(``val200``), given up where it is hopeless.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import torch
from mmengine import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vpeft.apis.config.load import load_config
from vpeft.apis.config.origin import is_given, set_by_command
from vpeft.apis.config.protocol import one_look
from vpeft.apis.config.setting import QuickConfig
from vpeft.apis.jobs.job import WORK
from vpeft.apis.jobs.shared_store import share_store
from vpeft.apis.run.disjoint import DisjointHook
from vpeft.apis.run.prepare import prepare, share_features
from vpeft.apis.run.train import train
from vpeft.core.datasets.tasks import SPLITS
from vpeft.core.families.metrics import main_metric
from vpeft.core.trained.code import code_hash, git_hash
from vpeft.core.trained.folder import hold
from vpeft.errors import UserError
from vpeft.files import read_json, write_json
from vpeft.registry import HOOKS

#: Looks at the validation images, the last one included, at which a trial may be given up.
LOOKS = 5


def trial_splits(suite: str) -> dict[str, str]:
    """What a trial trains on and looks at, as fields of a config."""
    return {"train_split": SPLITS[suite].tune, "eval_split": SPLITS[suite].val}


def pruner() -> optuna.pruners.BasePruner:
    """Gives a trial up that is below the median of the finished ones at the same epoch, from the fifth trial on."""
    return optuna.pruners.MedianPruner(n_startup_trials=4)


def trial_config(config: str, task: str | None, options: dict[str, Any], looks: int = LOOKS) -> Config:
    """What a trial trains and looks at, ``looks`` times. Nothing in it leads to the test images.

    Raises:
        UserError: The config has no validation images apart from the test images, or the options choose other lists.
    """
    suite = load_config(config, task, options).get("suite")
    suited = {} if suite is None else trial_splits(suite)
    for key, value in suited.items():
        if options.get(key, value) != value:
            raise UserError(f"{key}={options[key]!r}: a search sets {key}={value!r} by itself: leave it out.")
    cfg = load_config(config, task, {**options, **suited})
    if not suited and one_look(cfg).get("val_dataloader") is None:
        raise UserError(f"{config} validates on its test images: give it val_dataloader of its own to tune on.")
    if not is_given(cfg, "train_cfg.val_interval"):
        loop = cfg.train_cfg
        interval = max(1, (loop.get("max_epochs") or loop["max_iters"]) // looks)
        set_by_command(cfg, {"train_cfg.val_interval": interval}, f"a trial, which looks {looks} times")
    return cfg


@dataclass
class TrialJob:
    """A trial as a job (:class:`vpeft.apis.jobs.job.Job`).

    Attributes:
        root: Folder of all results.
        folder: The study's folder.
        storage: URL of the study's storage, which all workers share.
        number: The trial's number; its identifier in the storage is ``identifier``.
        config: The config.
        task: Its task, None for a config without a suite.
        options: Its settings by dotted key.
        seed: Seed of the training.
        threads: CPU threads.
        data_store: Bytes of decoded images that the runs below ``root`` share, ``off``, or None: as the config says.
        feature_cache: Bytes of the features that the runs below ``root`` share; None: as the config says.
        looks: Looks at the validation images, the last one included; a trial with one alone is never given up.
    """

    root: str
    folder: str
    storage: str
    number: int
    identifier: int
    config: str
    task: str | None
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    threads: int = 1
    data_store: str | None = None
    feature_cache: str | int | None = None
    looks: int = LOOKS

    @property
    def name(self) -> str:
        return str(Path(self.folder).relative_to(self.root) / f"trial{self.number:04d}")

    @property
    def file(self) -> Path:
        """What it ended with: ``state``, ``value`` of the last look, ``error``."""
        return Path(self.folder) / f"trial{self.number:04d}.json"

    def done(self) -> bool:
        return self.file.is_file()

    def outcome(self) -> dict[str, Any]:
        """What it ended with."""
        found = read_json(self.file, "outcome of a trial", broken="delete it, and the trial is run again")
        if not isinstance(found, dict) or found.get("state") not in ("complete", "pruned", "fail"):
            raise UserError(f"{self.file} holds no outcome of a trial: delete it, and the trial is run again.")
        return found

    def run(self) -> None:
        work = Path(self.root) / WORK / self.name
        work.mkdir(parents=True, exist_ok=True)
        with hold(work, wait=True):
            if self.done():
                return
            torch.set_num_threads(self.threads)
            cfg = trial_config(self.config, self.task, self.options, self.looks)
            cfg = prepare(cfg, str(work), seed=self.seed, resume=True, data_store=self.data_store)
            cfg = QuickConfig.of(share_features(share_store(cfg, self.root), self.feature_cache, self.root))
            hook = {"type": "vpeft.TrialHook", "storage": self.storage, "identifier": self.identifier}
            cfg.custom_hooks = [*cfg.get("custom_hooks", []), hook]
            state = "complete"
            try:
                train(cfg, DisjointHook(refuse="a search"))
            except optuna.TrialPruned:
                state = "pruned"
            reported = open_trial(self.storage, self.identifier).storage_values()
            self._end({"state": state, "value": reported[max(reported)], "looks": reported})
            for file in work.glob("*.pth"):
                file.unlink()

    def fail(self, error: str) -> None:
        self._end({"state": "fail", "error": error})

    def _end(self, outcome: dict[str, Any]) -> None:
        made = {"git": git_hash(), "code": code_hash()}
        write_json(self.file, {"number": self.number, "options": self.options, **made, **outcome})


class _Trial(optuna.Trial):
    """A trial with its looks."""

    def storage_values(self) -> dict[int, float]:
        """Reported values by step."""
        return dict(sorted(self.storage.get_trial(self._trial_id).intermediate_values.items()))


def open_trial(storage: str, identifier: int) -> _Trial:
    """A trial of a study, from any process."""
    return _Trial(_study(storage, os.getpid()), identifier)


@cache
def _study(storage: str, process: int) -> optuna.Study:
    """A study, once a process: connections must not be shared with a fork."""
    return optuna.load_study(study_name="study", storage=storage, pruner=pruner())


@HOOKS.register_module()
class TrialHook(Hook):
    """Reports each look at the validation images to the study, and gives a hopeless trial up.

    Args:
        storage: URL of the study's storage.
        identifier: The trial's in the storage.
    """

    def __init__(self, storage: str, identifier: int) -> None:
        self.trial = open_trial(storage, identifier)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Report."""
        metric = main_metric(metrics or {}, runner.cfg.get("main_metric"))
        if not metrics:  # of a detector that finds nothing
            metric = {"name": runner.cfg.get("main_metric"), "value": 0.0}
        if metric is None:
            raise UserError(f"none of the metrics {sorted(metrics or {})} is known: set main_metric.")
        if metric["value"] is None:
            raise UserError(f"{metric['name']} is {metrics[metric['name']]}: a search compares finite numbers.")
        last = runner.epoch == runner.max_epochs if runner.max_epochs else runner.iter >= runner.max_iters
        self.trial.report(metric["value"], runner.epoch or runner.iter)
        if not last and self.trial.should_prune():
            raise optuna.TrialPruned
