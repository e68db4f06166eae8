"""Jobs on a Slurm cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from vpeft.apis.jobs.engines.engine import Engine, needed
from vpeft.apis.jobs.job import Job, Outcome, execute
from vpeft.errors import UserError

#: How submitit sets up Python's logging at its import; ``NOCONFIG`` leaves that alone.
_LOGGING = "SUBMITIT_LOG_LEVEL"


class SlurmEngine(Engine):
    """Job arrays of Slurm, submitted by submitit. Jobs that were submitted go on where this process is killed; started
    again, it waits for those that run and takes their results.

    Args:
        folder: Where submitit keeps its files; on the shared file system.
        workers: Jobs of an array at once.
        threads: CPUs of a job.
        gpus: GPUs of a job.
        minutes: Time limit of a job.
        cluster: ``slurm``; ``local`` runs the same by processes of this machine.
        **parameters: Others of ``submitit.AutoExecutor.update_parameters``, such as ``slurm_partition``.
    """

    def __init__(
        self,
        folder: str = "work_dirs/slurm",
        workers: int = 64,
        threads: int = 1,
        gpus: int = 0,
        minutes: int = 240,
        cluster: str = "slurm",
        **parameters,
    ) -> None:
        submitit = _submitit()
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        except RuntimeError as error:
            raise UserError(f"engine slurm: {error}") from error
        given = {"timeout_min": minutes, "cpus_per_task": threads, "gpus_per_node": gpus, **parameters}
        self.executor.update_parameters(slurm_array_parallelism=workers, **given)
        self.pending: list[tuple[Any, Job]] = []

    def submit(self, jobs: Sequence[Job]) -> None:
        if jobs:
            self.pending += zip(self.executor.map_array(execute, list(jobs)), jobs, strict=True)

    def finished(self, timeout: float) -> list[tuple[Job, Outcome]]:
        deadline = time.monotonic() + timeout
        while True:
            ended, waiting = [], []
            for entry in self.pending:
                (ended if entry[0].done() else waiting).append(entry)
            if ended or not self.pending or time.monotonic() >= deadline:
                self.pending = waiting
                return [(job, self._outcome(task)) for task, job in ended]
            time.sleep(0.2)

    def _outcome(self, task: Any) -> Outcome:
        error = task.exception()
        return task.result() if error is None else Outcome(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        for task, _ in self.pending:
            task.cancel(check=False)
        self.pending.clear()


def _submitit() -> Any:
    """The package, imported without its settings of logging: they close every log file that this process writes.

    The processes of jobs are submitit's own and keep them.
    """
    before = os.environ.get(_LOGGING)
    os.environ[_LOGGING] = "NOCONFIG"
    try:
        return needed("submitit", "slurm")
    finally:
        if before is None:
            del os.environ[_LOGGING]
        else:
            os.environ[_LOGGING] = before
