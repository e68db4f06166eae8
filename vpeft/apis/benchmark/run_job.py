"""A run of a plan: what exactly is run, how it is known again, and running it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger

from vpeft.apis.benchmark import cost
from vpeft.apis.benchmark.step_cost import training_cost
from vpeft.apis.config.setting import QuickConfig, _setting, effective_config
from vpeft.apis.jobs.job import WORK
from vpeft.apis.jobs.shared_store import share_store
from vpeft.apis.results.files import RUNS, digest, read_result, write_result
from vpeft.apis.run.disjoint import data_of, overlap_faults
from vpeft.apis.run.prepare import prepare, share_features
from vpeft.apis.run.train import train
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.datasets.tasks import get_task
from vpeft.core.hooks.class_figures import ClassFiguresHook
from vpeft.core.trained.folder import ADAPTER, hold
from vpeft.core.trained.result import run_result
from vpeft.errors import UserError


def _measured(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Figures of cost; where taking them fails, as for want of memory, why: the trained and tested run still counts."""
    try:
        return measure()
    except Exception as error:  # whatever a model does in a step that is not the run's own
        MMLogger.get_current_instance().error("a cost could not be measured and stays empty: %s", error)
        return {"unmeasured": f"{type(error).__name__}: {error}"}


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
        data_store: Bytes of decoded images that the runs below ``root`` share, ``off``, or None: as the config says.
        feature_cache: Bytes of the features that the runs below ``root`` share; None: as the config says.
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
    data_store: str | None = None
    feature_cache: str | int | None = None

    def load(self) -> Config:
        """The effective config."""
        return effective_config(self.config, self.task if self.suite else None, self.options, self.variant)

    @cached_property
    def _hashes(self) -> tuple[str, str]:
        changes = json.dumps([self.options, self.variant], sort_keys=True)
        setting = _setting(self.config, self.task if self.suite else None, changes)[0]
        return digest([setting, self.seed]), setting

    def protocol(self) -> dict[str, Any]:
        """What it will look at (:func:`~vpeft.apis.config.protocol.protocol`)."""
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
        with hold(self.work_dir, wait=True):
            if not self.done():
                write_result(self.file, self._run())
                self._clean()

    def _run(self) -> dict[str, Any]:
        torch.set_num_threads(self.threads)
        cfg = prepare(self.load(), str(self.work_dir), seed=self.seed, resume=True, data_store=self.data_store)
        cfg = QuickConfig.of(share_features(share_store(cfg, self.root), self.feature_cache, self.root))
        start, whole = time.perf_counter(), not cfg.get("resume")
        runner = train(cfg)
        seconds = time.perf_counter() - start if whole else None  # of a run that went on, this is a part
        step, load = cost.step_seconds(runner), cost.machine_load()
        runner._resume = False  # what is tested is the model that was trained, not a checkpoint looked for once more
        figures = ClassFiguresHook()
        runner.register_hook(figures)
        metrics = runner.test()
        model = unwrap(runner.model)
        result = run_result(cfg, model, metrics, str(self.work_dir / ADAPTER), tested=figures.tested())
        if result["main_metric"] is None:
            raise UserError(f"{self.config}: none of the metrics {sorted(metrics)} is known: set main_metric.")
        result["checkpoint"] = os.path.relpath(result["checkpoint"], self.root)
        costs = {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else get_device(),
            "threads": self.threads,
            "train_seconds": seconds,
            "step_seconds": step,
            "load": load,
            "adapter_bytes": result["checkpoint_bytes"],
            **_measured(lambda: cost.inference(cfg, model)),
            # At the end: it may change the weights.
            **_measured(lambda: training_cost(runner, self.threads, cost.machine_load)),
        }
        looked = self.protocol()
        looked = {**looked, "faults": [*looked["faults"], *overlap_faults(data_of(runner))]}
        return {**result, **self._names("ok"), "cost": costs, "protocol": looked}

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
