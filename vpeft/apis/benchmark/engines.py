"""Where jobs run: processes of this machine, a Ray cluster, a Slurm cluster. One interface, :class:`Engine`.

The folder of the results must be seen under the same path by all workers; nothing else is shared.
"""

from __future__ import annotations

import inspect
import multiprocessing
import multiprocessing.connection
import os
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpeft.apis.benchmark.jobs import STARTED, WORK, Job, Outcome, execute
from vpeft.errors import UserError
from vpeft.registry import nearest

#: Imported once by the process that local workers are forked from.
PRELOAD = "vpeft.apis.benchmark.preload"


class Engine(ABC):
    """Takes jobs and tells how each attempt ended. A context manager: leaving it stops what still runs."""

    #: How many jobs may run at once, None where the cluster decides.
    slots: int | None = None

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs; they start as there is room."""

    @abstractmethod
    def finished(self, timeout: float) -> list[tuple[Job, Outcome]]:
        """Attempts that have ended since the last call; waits up to ``timeout`` seconds for the first."""

    def close(self) -> None:  # noqa: B027  (an engine may have nothing to stop)
        """Stop what still runs."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class LocalEngine(Engine):
    """Processes of this machine, one a job.

    On a CPU they are forked from a server that has imported everything once, so a job does not wait for imports. On
    CUDA, which does not survive a fork, they are spawned, each with one device of its own. They die with this process,
    however it ends.

    Args:
        workers: Jobs at once: a device each, or one for every ``threads`` cores.
        devices: Devices to use, all that torch sees unless given; an empty list for the CPU.
        threads: CPU threads of a job.
        start: How processes are made, one of multiprocessing's ways; as above unless given.
    """

    def __init__(
        self,
        workers: int | None = None,
        devices: Sequence[int] | None = None,
        threads: int = 1,
        start: str | None = None,
    ) -> None:
        visible = list(range(visible_devices())) if devices is None else list(devices)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.slots = workers or len(visible) or max(1, cores // threads)
        if self.slots < 1:
            raise UserError(f"workers={workers} must be at least 1.")
        # Several workers may share a device.
        self.free: deque[str] = deque(str(visible[i % len(visible)]) if visible else "" for i in range(self.slots))
        self.threads = threads
        self.waiting: deque[Job] = deque()
        self.running: dict[Any, tuple[Job, Any, Any, str]] = {}
        self.context = multiprocessing.get_context(start or ("spawn" if visible else "forkserver"))
        if self.context.get_start_method() == "forkserver":
            self.context.set_forkserver_preload([PRELOAD])

    def submit(self, jobs: Sequence[Job]) -> None:
        self.waiting.extend(jobs)
        self._start()

    def _start(self) -> None:
        # What torch and its libraries read at import, in the forking server or in the spawned process.
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(self.threads)
        while self.waiting and self.free:
            job, device = self.waiting.popleft(), self.free.popleft()
            ours, theirs = self.context.Pipe(duplex=False)
            process = self.context.Process(target=_work, args=(job, theirs, device), daemon=False)
            process.start()
            theirs.close()
            self.running[process.sentinel] = (job, process, ours, device)

    def finished(self, timeout: float) -> list[tuple[Job, Outcome]]:
        ended = multiprocessing.connection.wait(list(self.running), timeout) if self.running else []
        found = []
        for sentinel in ended:
            job, process, ours, device = self.running.pop(sentinel)
            process.join()
            try:
                outcome = ours.recv() if ours.poll() else None
            except EOFError:
                outcome = None
            ours.close()
            self.free.append(device)
            found.append((job, outcome or Outcome(f"the worker ended with exit code {process.exitcode}{_tail(job)}")))
        self._start()
        return found

    def close(self) -> None:
        self.waiting.clear()
        for _, process, ours, _ in self.running.values():
            process.kill()
            process.join()
            ours.close()
        self.running.clear()


def _tail(job: Job) -> str:
    log = Path(job.root) / WORK / job.name / "job.log"
    text = log.read_text(errors="replace").strip() if log.is_file() else ""
    return f": {text[-2000:]}" if text else ", without a word"


def _work(job: Job, told: Any, device: str) -> None:
    """A local worker."""
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    _die_with(multiprocessing.parent_process())
    log = Path(job.root) / WORK / job.name / "job.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # By lines, so that a worker that is killed has said what it said.
    with open(log, "a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        told.send(execute(job))


def _die_with(parent: Any) -> None:
    """End this process, whatever it does, when ``parent`` has ended."""

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def visible_devices() -> int:
    """CUDA devices, asked for in another process: the asking alone would spoil a later fork."""
    if not Path("/proc/driver/nvidia").exists():
        return 0
    code = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return int(done.stdout.strip() or 0)


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
        self.ray = _needed("ray", "ray")
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
        ended, _ = self.ray.wait(list(self.pending), num_returns=1, timeout=timeout)
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
        submitit = _needed("submitit", "slurm")
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
            ended = [entry for entry in self.pending if entry[0].done()]
            if ended or not self.pending or time.monotonic() >= deadline:
                self.pending = [entry for entry in self.pending if entry not in ended]
                return [(job, self._outcome(task)) for task, job in ended]
            time.sleep(0.2)

    def _outcome(self, task: Any) -> Outcome:
        error = task.exception()
        return task.result() if error is None else Outcome(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        for task, _ in self.pending:
            task.cancel(check=False)
        self.pending.clear()


ENGINES: dict[str, type[Engine]] = {"local": LocalEngine, "ray": RayEngine, "slurm": SlurmEngine}


def build_engine(name: str = "local", **options) -> Engine:
    """An engine by name.

    Args:
        name: One of :data:`ENGINES`.
        **options: Its own; those that are None are left out.

    Raises:
        UserError: Unknown engine or option, or its package is not installed; the message names the nearest.
    """
    if name not in ENGINES:
        raise UserError(f"unknown engine {name!r}: {nearest(name, ENGINES)}")
    options = {k: v for k, v in options.items() if v is not None}
    parameters = inspect.signature(ENGINES[name].__init__).parameters
    known = [p for p in parameters if p != "self"]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in known:
                raise UserError(f"engine {name!r} has no option {option!r}: {nearest(option, known)}")
    return ENGINES[name](**options)


def started(job: Job) -> bool:
    """Whether a worker has taken a job."""
    return (Path(job.root) / WORK / job.name / STARTED).exists()


def _needed(module: str, extra: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise UserError(f"this engine needs {module}: pip install 'vpeft[{extra}]'.") from error
