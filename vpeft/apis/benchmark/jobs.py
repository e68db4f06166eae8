"""A run of a plan: what exactly is run, how it is known again, and running it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine import Config
from mmengine.device import get_device

from vpeft.apis.benchmark import cost
from vpeft.apis.benchmark.protocol import one_look, protocol
from vpeft.apis.benchmark.results import RUNS, digest, read_result, write_result
from vpeft.apis.benchmark.shots import few_shot
from vpeft.apis.config import load_config
from vpeft.apis.run import ADAPTER, prepare, train
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.datasets.tasks import get_task
from vpeft.core.trained.result import run_result
from vpeft.errors import UserError

#: Working folders: logs, checkpoints until the result is there, adapter files.
WORK = "work"
#: Written by the worker that takes a job (host and process), so that waiting and running ones can be told apart on any
#: engine.
STARTED = ".started"
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
}
NOT_CONTENT |= {"resume", "load_from", "tuned"}
#: Default hooks that only watch.
WATCHERS = {"timer", "logger", "checkpoint", "visualization"}


class Job(Protocol):
    """What engines run: a picklable object. Its results are files; nothing else comes back."""

    #: Names it among the jobs of a plan, and its working folder below ``root``.
    name: str
    root: str

    def done(self) -> bool:
        """Whether its result is there."""

    def run(self) -> None:
        """Run it, in any process, from where an earlier attempt left off. Raises where it fails."""

    def fail(self, error: str) -> None:
        """Record, after the last attempt, that it failed."""


def setting_hash(cfg: Config) -> str:
    """What a setting is known by: SHA-256 of the effective config, data variant included, seed not.

    Paths of data and work, logging, and where a tuned setting came from are left out: they change nothing.
    """

    def content(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {str(k): content(v) for k, v in node.items() if k not in NOT_CONTENT}
        if isinstance(node, (list, tuple)):
            return [content(v) for v in node]
        return node if isinstance(node, (str, int, float, bool, type(None))) else repr(node)

    whole = content(cfg.to_dict())
    whole["default_hooks"] = {k: v for k, v in whole.get("default_hooks", {}).items() if k not in WATCHERS}
    whole.get("randomness", {}).pop("seed", None)
    return digest(whole)


def effective_config(config: str, task: str | None, options: Mapping[str, Any], variant: Mapping[str, Any]) -> Config:
    """What a run is made from: the config with its task, options and variant, its one look at the test set."""
    changes = {k: v for k, v in {**options, **variant}.items() if k != "shots"}
    cfg = one_look(load_config(config, task, changes))
    if (shots := variant.get("shots")) is not None:
        try:
            few_shot(cfg, shots)
        except UserError as error:
            raise UserError(f"{config}{f' on {task}' if task else ''}: {error}") from error
    return cfg


@cache
def _setting(config: str, task: str | None, changes: str) -> tuple[str, dict[str, Any]]:
    """Hash and protocol of a setting, once for all its seeds."""
    options, variant = json.loads(changes)
    cfg = effective_config(config, task, options, variant)
    return setting_hash(cfg), protocol(cfg, variant.get("shots"))


class QuickConfig(Config):
    """A config that is written out once: mmengine asks for its formatted text seven times in a run, which for a run of
    seconds is a good part of all.
    """

    @classmethod
    def of(cls, cfg: Config) -> QuickConfig:
        """The same config, quiet."""
        return cls({**cfg.to_dict(), "log_level": "ERROR"}, cfg_text=cfg.text, filename=cfg.filename)

    @property
    def pretty_text(self) -> str:
        """As mmengine's."""
        content = repr(self._cfg_dict)
        if content not in _texts:
            _texts.clear()
            _texts[content] = super().pretty_text
        return _texts[content]


#: Of the config that was written out last.
_texts: dict[str, str] = {}


@dataclass
class RunJob:
    """One run: train, test once at the end, write the result.

    Attributes:
        root: Folder of the results.
        config: The config file or name, absolute.
        method: Label of the row.
        backbone: Label of the host.
        task: Label of the column.
        suite: The suite that it is a task of, None for a config without tasks.
        seed: Seed.
        variant: Settings by dotted key that differ from the config's and name the row, ``shots`` included.
        options: Settings besides that do not make another row, such as tuned ones, by dotted key.
        tuning: What is said of these in the result.
        threads: CPU threads.
        keep_checkpoints: Keep ``epoch_*.pth`` once the result is there.
    """

    root: str
    config: str
    method: str
    backbone: str
    task: str
    suite: str | None
    seed: int
    variant: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    tuning: dict[str, Any] | None = None
    threads: int = 1
    keep_checkpoints: bool = False

    def load(self) -> Config:
        """The effective config."""
        return effective_config(self.config, self.task if self.suite else None, self.options, self.variant)

    @cached_property
    def _hashes(self) -> tuple[str, str]:
        changes = json.dumps([self.options, self.variant], sort_keys=True)
        setting = _setting(self.config, self.task if self.suite else None, changes)[0]
        return digest([setting, self.seed]), setting

    def protocol(self) -> dict[str, Any]:
        """What it will look at (:func:`~vpeft.apis.benchmark.protocol.protocol`)."""
        changes = json.dumps([self.options, self.variant], sort_keys=True)
        return _setting(self.config, self.task if self.suite else None, changes)[1]

    @property
    def name(self) -> str:
        return f"{Path(self.config).stem}/{self.task}/seed{self.seed}-{self._hashes[0][:12]}"

    @property
    def file(self) -> Path:
        """Its result."""
        return Path(self.root) / RUNS / f"{self.name}.json"

    @property
    def work_dir(self) -> Path:
        """Its working folder."""
        return Path(self.root) / WORK / self.name

    def result(self) -> dict[str, Any] | None:
        """Its result, None where there is no valid one."""
        try:
            return read_result(self.file)
        except UserError:
            return None

    def done(self) -> bool:
        result = self.result()
        return result is not None and result["status"] == "ok"

    def run(self) -> None:
        self.work_dir.mkdir(parents=True, exist_ok=True)
        # A worker that outlived its killed benchmark for a moment, or another benchmark on the same folder.
        with locked(self.work_dir / ".lock"):
            if not self.done():
                write_result(self.file, self._run())
                self._clean()

    def _run(self) -> dict[str, Any]:
        torch.set_num_threads(self.threads)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        cfg = QuickConfig.of(prepare(self.load(), str(self.work_dir), seed=self.seed, resume=True))
        start = time.perf_counter()
        runner = train(cfg)
        seconds = time.perf_counter() - start
        step = cost.step_seconds(runner)
        runner._resume = False  # what is tested is the model that was trained, not a checkpoint looked for once more
        metrics = runner.test()
        model = unwrap(runner.model)
        result = run_result(cfg, model, metrics, str(self.work_dir / ADAPTER))
        if result["main_metric"] is None:
            raise UserError(f"{self.config}: none of the metrics {sorted(metrics)} is known: set main_metric.")
        result["checkpoint"] = os.path.relpath(result["checkpoint"], self.root)
        costs = {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else get_device(),
            "threads": self.threads,
            "train_seconds": seconds,
            "step_seconds": step,
            "adapter_bytes": result["checkpoint_bytes"],
            **cost.peak_memory(cfg, model),
            **cost.inference(cfg, model),
        }
        return {**result, **self._names("ok"), "cost": costs, "protocol": self.protocol()}

    def _names(self, status: str) -> dict[str, Any]:
        return {
            "status": status,
            "hash": self._hashes[0],
            "setting": self._hashes[1],
            "config": Path(self.config).name,
            "method": self.method,
            "backbone": self.backbone,
            "task": self.task,
            "suite": self.suite,
            "group": get_task(self.task, self.suite).group if self.suite else None,
            "variant": self.variant,
            "seed": self.seed,
            "tuning": self.tuning,
        }

    def fail(self, error: str) -> None:
        write_result(self.file, {**self._names("failed"), "error": error})

    def _clean(self) -> None:
        if not self.keep_checkpoints:
            for file in [*self.work_dir.glob("*.pth"), self.work_dir / "last_checkpoint"]:
                file.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; it is free again as soon as its holder is dead."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a job ended.

    Attributes:
        error: What went wrong, None where nothing did.
        again: Whether another attempt may end otherwise.
    """

    error: str | None = None
    again: bool = True


def execute(job: Job) -> Outcome:
    """Run a job here; errors are told, not raised. Every engine's workers call it."""
    folder = Path(job.root) / WORK / job.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STARTED).write_text(f"{platform.node()} {os.getpid()}\n")
    logging.getLogger().setLevel(logging.ERROR)
    try:
        job.run()
    except UserError as error:
        return Outcome(str(error), again=False)
    except Exception:
        return Outcome(traceback.format_exc())
    return Outcome()
