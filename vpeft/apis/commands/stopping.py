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


class _Children:
    """What is forked within ``ending_by_sigterm`` ends by SIGTERM at once, as a process without it.

    Python forgets a caught signal that reaches a child before its first line, so that who ends it and waits, as
    multiprocessing's pools do, would wait forever. It is held back until the child does not catch it any more.
    """

    within = 0
    held = threading.local()

    @classmethod
    def before(cls) -> None:
        if cls.within:
            cls.held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    @classmethod
    def in_parent(cls) -> None:
        mask = cls.held.__dict__.pop("mask", None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    @classmethod
    def in_child(cls) -> None:
        if cls.within:
            cls.within = 0
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        cls.in_parent()


os.register_at_fork(before=_Children.before, after_in_parent=_Children.in_parent, after_in_child=_Children.in_child)


@contextmanager
def ending_by_sigterm() -> Iterator[None]:
    """Within the context, SIGTERM ends the work as Ctrl-C does: what is open is closed, locks are given back.

    In other threads than the main one, where signals cannot be caught, nothing changes. Children that are forked
    meanwhile end by SIGTERM at once.
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
    _Children.within += 1
    try:
        yield
    finally:
        _Children.within = max(0, _Children.within - 1)  # none in a child that comes to here
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)
