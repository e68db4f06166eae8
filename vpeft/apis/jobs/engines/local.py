"""Jobs in processes of this machine."""

from __future__ import annotations

import multiprocessing.connection
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpeft.apis.jobs.engines.engine import Engine
from vpeft.apis.jobs.job import WORK, Job, Outcome, execute
from vpeft.errors import UserError

#: Imported once by the process that local workers are forked from.
PRELOAD = "vpeft.apis.benchmark.preload"


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

    one_machine = True

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
        # Its words as well as its end: a worker with more to say than a pipe holds ends when it was heard. Its end as
        # well as its words: its own children may hold the pipe open when it was killed.
        told = {ours: sentinel for sentinel, (_, _, ours, _) in self.running.items()}
        ready = multiprocessing.connection.wait([*self.running, *told], timeout) if self.running else []
        found = []
        for sentinel in dict.fromkeys(told.get(one, one) for one in ready):
            job, process, ours, device = self.running.pop(sentinel)
            try:
                outcome = ours.recv() if ours.poll() else None
            except (EOFError, OSError):
                outcome = None
            process.join()
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
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        # By lines, so that a worker that is killed has said what it said.
        file = open(log, "a", buffering=1)  # noqa: SIM115
    except OSError as error:
        told.send(Outcome(f"{log} cannot be written: {error}", again=False))
        return
    with file:
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
