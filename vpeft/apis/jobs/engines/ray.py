"""Jobs on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vpeft.apis.jobs.engines.engine import Engine, needed
from vpeft.apis.jobs.job import Job, Outcome, execute
from vpeft.errors import UserError


class RayEngine(Engine):
    """Tasks of a Ray cluster.

    Args:
        address: Of the cluster, such as ``ray://head:10001`` or ``auto``; one is started on this machine unless given.
        workers: CPUs of the one that is started here.
        threads: CPUs of a job.
        gpus: GPUs of a job, also a fraction.
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, threads: int = 1, gpus: float = 0
    ) -> None:
        self.ray = needed("ray", "ray")
        self.own = not self.ray.is_initialized()
        if self.own:
            # Ray would else take a running cluster of this machine without being asked.
            here = {"address": "local", "num_cpus": workers, "include_dashboard": False}
            variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
            where = {"address": address} if address else here
            try:
                self.ray.init(**where, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": variables})
            except (ConnectionError, RuntimeError, self.ray.exceptions.RayError) as error:
                raise UserError(
                    f"engine ray: no cluster at {address or 'this machine'} ({str(error).splitlines()[0]}): check the "
                    "address, and, where the cluster asks for a token, that this shell has it."
                ) from error
        # A lost worker is told as any other failure, and run again by who asked.
        self.task = self.ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(execute)
        self.slots = int(self.ray.cluster_resources().get("CPU", 1) // threads)
        self.pending: dict[Any, Job] = {}

    def submit(self, jobs: Sequence[Job]) -> None:
        self.pending.update({self.task.remote(job): job for job in jobs})

    def finished(self, timeout: float) -> list[tuple[Job, Outcome]]:
        if not self.pending:
            return []
        tasks = list(self.pending)
        self.ray.wait(tasks, num_returns=1, timeout=timeout)
        ended, _ = self.ray.wait(tasks, num_returns=len(tasks), timeout=0)  # whatever else has ended by now
        return [(self.pending.pop(task), self._outcome(task)) for task in ended]

    def _outcome(self, task: Any) -> Outcome:
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return Outcome(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        for task in self.pending:
            self.ray.cancel(task, force=True)
        self.pending.clear()
        if self.own:
            self.ray.shutdown()
