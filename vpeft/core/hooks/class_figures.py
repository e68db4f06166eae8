"""The figure of every class of a test, and which images were answered rightly."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from vpeft.core.datasets.identity import samples_of
from vpeft.core.families.per_class import ClassFigures
from vpeft.core.families.tested import answers_kept
from vpeft.errors import UserError


class ClassFiguresHook(Hook):
    """Gathers the figures of the classes, and the answers, while a test's metrics compute theirs."""

    def __init__(self) -> None:
        self.figures: ClassFigures | None = None
        self.regions: list[str] | None = None

    def before_test_epoch(self, runner: Runner) -> None:
        """Look at the metrics."""
        if self.figures is None:
            self.figures = ClassFigures(runner.test_evaluator.metrics)
            self.regions = regions_of_samples(runner.test_dataloader.dataset)

    def found(self) -> dict[str, Any] | None:
        """As :meth:`~vpeft.core.families.per_class.ClassFigures.found`."""
        return None if self.figures is None else self.figures.found()

    def tested(self) -> dict[str, Any] | None:
        """As :func:`~vpeft.core.families.tested.answers_kept`; None where samples have no one label, or where answers
        cannot be told apart.
        """
        right = None if self.figures is None else self.figures.right()
        if right is None or (self.regions is not None and len(self.regions) != len(right)):
            return None
        return answers_kept(right, self.regions)


def regions_of_samples(dataset: Any) -> list[str] | None:
    """The region of every sample, in order; None where the first has none."""
    try:
        samples = samples_of(dataset)
        first = next(samples, {}).get("region")
        return None if first is None else [first, *(sample["region"] for sample in samples)]
    except UserError:  # a data set of another kind
        return None
