"""How long runs will take, before they are started."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from vpeft.apis.benchmark.run_job import RunJob
from vpeft.apis.config.load import build_model
from vpeft.apis.results.files import RUNS, read_results

#: At most so many hosts, with so many images of each class, are tried for a few steps.
PROBES = 8


class Estimate:
    """Seconds of a run: the median of earlier ones of its config and task, of its config, of its host with as many
    images; else a few steps of training and testing on this machine.

    Args:
        root: Folder of results to learn from.
        jobs: What is to be run.
    """

    def __init__(self, root: str, jobs: Sequence[RunJob]) -> None:
        self.known: dict[tuple[str, ...], list[float]] = {}
        self._medians: dict[tuple[str, ...], float] = {}
        runs = read_results(root).ok().runs.values() if (Path(root) / RUNS).is_dir() else []
        for r in (r for r in runs if r["cost"].get("train_seconds") is not None):
            for key in self._keys(r["config"], r["backbone"], r["task"], r["variant"]):
                self.known.setdefault(key, []).append(r["cost"]["train_seconds"])
        self.source = f"from {len(runs)} earlier runs" if runs else ""
        probes, failed = 0, ""
        for job in jobs:
            *_, size, host = self._keys(Path(job.config).name, job.backbone, job.task, job.variant)
            if self(job, size) is None and probes < PROBES:
                probes += 1
                try:
                    self.known[size] = [probe(job)]
                    self.known.setdefault(host, []).extend(self.known[size])
                    self._medians.pop(host, None)
                    self.source = self.source or "from a few steps here"
                except Exception as error:  # a run will say it better; data of another task may be there
                    failed = failed or f"no estimate: {str(error).splitlines()[0]}"
        self.source = self.source or failed

    @staticmethod
    def _keys(config: str, backbone: str, task: str, variant: dict) -> list[tuple[str, ...]]:
        changed = repr(sorted(variant.items()))
        size = (backbone, "shots", str(variant.get("shots")))
        return [(config, task, changed), (config, changed), (backbone, changed), size, (backbone,)]

    def __call__(self, job: RunJob, last: tuple[str, ...] | None = None) -> float | None:
        """Seconds of a run, None where nothing is known; ``last`` is the least that must be alike."""
        for key in self._keys(Path(job.config).name, job.backbone, job.task, job.variant):
            if key in self.known:
                if key not in self._medians:
                    self._medians[key] = statistics.median(self.known[key])
                return self._medians[key]
            if key == last:
                break
        return None

    def total(self, jobs: Sequence[RunJob], slots: int | None) -> float | None:
        """Seconds of all, ``slots`` at a time."""
        seconds = [self(job) for job in jobs]
        return None if None in seconds else sum(seconds) / (slots or 1)


def probe(job: RunJob, steps: int = 2) -> float:
    """Seconds that a run would take by itself, from ``steps`` steps of training and one of testing."""
    cfg = job.load()
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmengine")):
        model = build_model(cfg).to(get_device())
        train = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        test = Runner.build_dataloader(cfg.test_dataloader, seed=0)
        batch, test_batch = next(iter(train)), next(iter(test))
        threads = torch.get_num_threads()
        torch.set_num_threads(job.threads)
        try:
            model.train()
            step = min(_seconds(lambda: _step(model, batch)) for _ in range(steps))
            model.eval()
            with torch.no_grad():
                look = min(_seconds(lambda: model.test_step(test_batch)) for _ in range(steps))
        finally:
            torch.set_num_threads(threads)
    loop = cfg.train_cfg
    iterations = loop.get("max_iters") or loop["max_epochs"] * len(train)
    return step * iterations + look * len(test)


def _step(model: torch.nn.Module, batch: object) -> None:
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    model.parse_losses(losses)[0].backward()


def _seconds(call: object) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
