"""Working off jobs: submit, watch, try again, record failures, go on."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vpeft.apis.jobs.engines.engine import Engine, started
from vpeft.apis.jobs.job import STARTED, WORK, Job
from vpeft.errors import printable

#: Seconds between two looks at what runs.
INTERVAL = 1.0


def run_jobs(
    jobs: Sequence[Job],
    engine: Engine,
    retries: int = 1,
    follow: Callable[[Job], Sequence[Job]] | None = None,
    total: int | None = None,
    before: int | None = None,
    expected: Callable[[Job], float] | None = None,
    quiet: bool = False,
    figure: Callable[[Job], str | None] | None = None,
) -> list[Job]:
    """Run jobs that are not done, each up to ``1 + retries`` times; a failure stops none of the others.

    Args:
        jobs: Jobs.
        engine: Where they run.
        retries: Further attempts at one that failed; none where it failed by wrong use.
        follow: Jobs that follow from one that has ended, however it has.
        total: How many there will be with those that follow.
        before: How many of these were done before, where not ``jobs`` tell.
        expected: Seconds of a job by an earlier guess, for the time left before the first has ended.
        quiet: Show nothing.
        figure: What a job that is done has shown, in a few words.

    Returns:
        The jobs that failed.
    """
    # One that is done ends at once where something follows from it.
    todo = [job for job in jobs if follow or not job.done()]
    total = total or len(jobs)
    view = _View(total, len(jobs) - len(todo) if before is None else before, engine.slots, expected, quiet, figure)
    attempts: Counter[str] = Counter()
    failed: list[Job] = []
    unfinished = {job.name: job for job in todo}
    _forget_starts(todo)
    with view:
        engine.submit(todo)
        while unfinished:
            for job, outcome in engine.finished(INTERVAL):
                if job.name not in unfinished:
                    continue
                attempts[job.name] += 1
                error = outcome.error or (None if job.done() else "the worker said that it is done, and left no result")
                if error and outcome.again and attempts[job.name] <= retries:
                    view.line(f"{job.name}: attempt {attempts[job.name]} failed, another follows: {_last(error)}")
                    _forget_starts([job])
                    engine.submit([job])
                    continue
                del unfinished[job.name]
                if error:
                    job.fail(error)
                    failed.append(job)
                view.ended(job, error)
                more = list(follow(job)) if follow else []
                _forget_starts(more)
                unfinished |= {new.name: new for new in more}
                engine.submit(more)
            view.show(unfinished.values())
    return failed


def _forget_starts(jobs: Sequence[Job]) -> None:
    for job in jobs:
        (Path(job.root) / WORK / job.name / STARTED).unlink(missing_ok=True)


def _last(error: str) -> str:
    lines = error.strip().splitlines()
    return lines[-1] if lines else error


class _View(AbstractContextManager):
    """Done, running, failed and time left: a line for each finished job, and a living one on a terminal."""

    def __init__(
        self,
        total: int,
        done: int,
        slots: int | None,
        expected: Callable[[Job], float] | None,
        quiet: bool,
        figure: Callable[[Job], str | None] | None = None,
    ) -> None:
        self.total, self.done, self.before, self.failed = total, done, done, 0
        self.slots, self.expected, self.figure = slots, expected, figure
        self.console = Console(stderr=True, quiet=quiet)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.progress.add_task("", total=total, completed=done, state="")
        self.start = time.monotonic()

    def __enter__(self) -> _View:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def line(self, text: str) -> None:
        self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def ended(self, job: Job, error: str | None) -> None:
        self.done += error is None
        self.failed += error is not None
        if error:
            self.line(f"FAILED {job.name}: {_last(error)}")
        else:
            left = self.seconds_left([])
            said = (self.figure(job) if self.figure else None, f"{clock(left)} left" if left else None)
            self.line("  ".join(filter(None, (f"[{self.done + self.failed}/{self.total}] {job.name}", *said))))

    def show(self, unfinished: Iterable[Job]) -> None:
        if not self.console.is_terminal:
            return
        running = sum(map(started, itertools.islice(unfinished, 4 * (self.slots or 64))))
        left = clock(self.seconds_left(unfinished))
        state = f"done {self.done}, running {running}, failed {self.failed}, ETA {left}"
        self.progress.update(self.task, completed=self.done + self.failed, total=self.total, state=state)

    def seconds_left(self, unfinished: Iterable[Job]) -> float | None:
        """By the pace so far, before the first end by the guesses."""
        ended = self.done + self.failed - self.before
        remaining = self.total - self.done - self.failed
        if ended:
            return (time.monotonic() - self.start) / ended * remaining
        if self.expected is None:
            return None
        return sum(map(self.expected, unfinished)) / (self.slots or 1)


def clock(seconds: float | None) -> str:
    """Seconds as h:mm:ss."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
