"""The figure of every class of a test."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from vpeft.core.families.per_class import ClassFigures


class ClassFiguresHook(Hook):
    """Gathers the figures of the classes while a test's metrics compute theirs."""

    def __init__(self) -> None:
        self.figures: ClassFigures | None = None

    def before_test_epoch(self, runner: Runner) -> None:
        """Look at the metrics."""
        if self.figures is None:
            self.figures = ClassFigures(runner.test_evaluator.metrics)

    def found(self) -> dict[str, Any] | None:
        """As :meth:`~vpeft.core.families.per_class.ClassFigures.found`."""
        return None if self.figures is None else self.figures.found()
