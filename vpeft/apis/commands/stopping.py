"""Ending by a signal, cleanly."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

RESUMABLE = "stopped; the same command goes on from there (tools/train.py with --resume)."


class Stopped(KeyboardInterrupt):
    """A signal has ended the work: its text is the line to be said.

    Attributes:
        status: The exit status, 128 and the signal's number.
    """

    def __init__(self, text: str, status: int = 128 + signal.SIGINT) -> None:
        super().__init__(text)
        self.status = status

    @classmethod
    def of(cls, error: KeyboardInterrupt, checkpoint: Path | None) -> Stopped:
        """The same, of a run, whose last checkpoint is named."""
        status = getattr(error, "status", 128 + signal.SIGINT)
        rest = "no checkpoint was written yet" if checkpoint is None else f"the last checkpoint is {checkpoint}"
        go_on = "" if checkpoint is None else ": --resume goes on from it"
        return cls(f"stopped by {signal.Signals(status - 128).name}; {rest}{go_on}.", status)


def stop_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The signal that an error comes of: some libraries catch everything, and raise an error of their own instead."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return seen


@contextmanager
def ending_by_sigterm() -> Iterator[None]:
    """Within the context, SIGTERM ends the work as Ctrl-C does: what is open is closed, locks are given back.

    In other threads than the main one, where signals cannot be caught, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> Any:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who asks twice does not want to wait
        raise Stopped(RESUMABLE.replace("stopped", "stopped by SIGTERM", 1), 128 + number)

    def lost(what: sys.UnraisableHookArgs) -> None:
        """Python passes over what is raised while an object is deleted: ask once more."""
        if not isinstance(what.exc_value, Stopped):
            hook(what)
            return
        signal.signal(signal.SIGTERM, stop)
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()

    before, hook = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)
