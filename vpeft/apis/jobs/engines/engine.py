"""Where jobs run: processes of this machine, a Ray cluster, a Slurm cluster. One interface, :class:`Engine`.

The folder of the results must be seen under the same path by all workers; nothing else is shared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpeft.apis.jobs.job import STARTED, WORK, Job, Outcome
from vpeft.errors import UserError


class Engine(ABC):
    """Takes jobs and tells how each attempt ended. A context manager: leaving it stops what still runs."""

    #: How many jobs may run at once, None where the cluster decides.
    slots: int | None = None
    #: Whether all jobs run on this machine.
    one_machine: bool = False

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


def started(job: Job) -> bool:
    """Whether a worker has taken a job."""
    return (Path(job.root) / WORK / job.name / STARTED).exists()


def needed(module: str, extra: str) -> Any:
    """The package that an engine is made of; ``extra`` of ours installs it.

    Raises:
        UserError: It is not installed.
    """
    try:
        return __import__(module)
    except ImportError as error:
        raise UserError(f"this engine needs {module}: pip install 'vpeft[{extra}]'.") from error
