"""One job: what is worked off, wherever that is."""

from __future__ import annotations

import logging
import os
import platform
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vpeft.errors import UserError

#: Working folders: logs, checkpoints until the result is there, adapter files.
WORK = "work"


#: Written by the worker that takes a job (host and process), so that waiting and running ones can be told apart on any
#: engine.
STARTED = ".started"


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
    logging.getLogger().setLevel(logging.ERROR)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STARTED).write_text(f"{platform.node()} {os.getpid()}\n")
        job.run()
    except UserError as error:
        return Outcome(str(error), again=False)
    except Exception:
        return Outcome(traceback.format_exc())
    return Outcome()
