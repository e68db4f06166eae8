"""Which class of mmengine's runners is built: the command puts in one that has a screen of its own."""

from __future__ import annotations

from contextvars import ContextVar

from mmengine.runner import Runner

RUNNER: ContextVar[type[Runner]] = ContextVar("RUNNER", default=Runner)
