"""Means, spreads and comparisons over seeds and tasks; the Pareto front."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vpeft.apis.results.costs import COSTS, costs_of
from vpeft.apis.results.files import Cell, Results, Row, cells
from vpeft.apis.results.intervals import (
    Interval,
    Spread,
    deviation,
    of_mean,
    pooled_spread,
    sampling_spread,
    student,
)
from vpeft.core.families.metrics import ppt
from vpeft.core.families.tested import units_of_test


@dataclass
class Line:
    """A row of a table.

    Attributes:
        row: Whose it is.
        cells: Its cells by task.
        mean: Mean over tasks of the means over seeds ("mean of tasks"), in [0, 1].
        std: Standard deviation over seeds of a seed's mean over tasks; None with fewer than two seeds that have all.
        spread: The same deviation, pooled from the tasks' own spreads; None where no task has two seeds.
        group_means: Mean of each VTAB group's tasks that are there.
        mean_of_groups: Mean of these; None where a task has no group.
        parameters: Trained parameters without the head: those of its tasks, averaged (most methods have one number).
        ppt: Of ``mean`` and ``parameters``.
        cost: Medians over its runs of step seconds, peak memory, size of the adapter file, inference ratios.
        images: What is known of the error of ``mean`` with other test images; None where a run does not say.
    """

    row: Row
    cells: dict[str, Cell]
    mean: float
    std: float | None
    spread: float | None
    group_means: dict[str, float]
    mean_of_groups: float | None
    parameters: float
    ppt: float
    cost: dict[str, float | None]
    images: Spread | None = None


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1), None for a single value."""
    return statistics.fmean(values), deviation(values) if len(values) > 1 else None


def lines(results: Results, tasks: Sequence[str] | None = None) -> list[Line]:
    """A line per row that has every task, the best first.

    Args:
        results: Results; failed ones are left out.
        tasks: Columns; all that any row has unless given.
    """
    table = cells(results)
    tasks = list(tasks or all_tasks(results))
    found = [
        line_of(row, {t: by_task[t] for t in tasks}, results)
        for row, by_task in table.items()
        if {*tasks} <= {*by_task}
    ]
    return sorted(found, key=lambda line: (-line.mean, line.row))


def all_tasks(results: Results) -> list[str]:
    """Tasks of the results in their suites' order, group by group; those of no suite behind them, by name."""
    from vpeft.core.datasets.tasks import TASKS  # with all data sets, which a help does without

    found = {r["task"] for r in results.ok().runs.values()}
    return [task for task in TASKS if task in found] + sorted(found - set(TASKS))


def line_of(row: Row, by_task: dict[str, Cell], results: Results) -> Line:
    """The line of one row over the tasks that it has cells of, which were made of ``results``."""
    from vpeft.core.datasets.tasks import GROUPS

    runs = [results.runs[path] for cell in by_task.values() for path in cell.runs.values()]
    means = {task: statistics.fmean(cell.values.values()) for task, cell in by_task.items()}
    groups: dict[str | None, list[float]] = {}
    for task, cell in by_task.items():
        group = results.runs[next(iter(cell.runs.values()))]["group"]
        groups.setdefault(group, []).append(means[task])
    group_means = {g: statistics.fmean(groups[g]) for g in GROUPS if g in groups}
    by_group = statistics.fmean(group_means.values()) if None not in groups else None
    seeds = set.intersection(*(set(cell.values) for cell in by_task.values()))
    of_seeds = [statistics.fmean(cell.values[s] for cell in by_task.values()) for s in sorted(seeds)]
    overall = statistics.fmean(means.values())
    counts = {r["task"]: r["parameters"]["trainable_without_head"] for r in runs}
    parameters = statistics.fmean(counts.values())
    std = deviation(of_seeds) if len(of_seeds) > 1 else None
    own = pooled_spread([list(cell.values.values()) for cell in by_task.values()])
    seeds_of = statistics.harmonic_mean([len(cell.values) for cell in by_task.values()])
    spread = None if own is None else own.error * math.sqrt(seeds_of)
    one = ppt(overall, parameters)
    images = images_spread(by_task, results)
    return Line(row, by_task, overall, std, spread, group_means, by_group, parameters, one, _cost(runs), images)


def images_spread(
    cells: Mapping[str, Cell], results: Results, other: Mapping[str, Cell] | None = None
) -> Spread | None:
    """The error of a row's mean over tasks, or of its difference from another row, with other test images.

    Args:
        cells: Of the row, by task.
        results: What they are made of.
        other: Of the other row, with the same tasks; answers are compared image by image, or region by region.

    Returns:
        The spread; None where a run does not say which images it answered rightly, or two saw different ones.
    """
    parts = []
    for task, cell in cells.items():
        paths = [list(cell.runs.values()), list(other[task].runs.values()) if other else []]
        units = [[units_of_test(results.runs[path].get("test_answers")) for path in some] for some in paths]
        if None in (flat := [one for some in units for one in some]):
            return None
        _, of, names = flat[0]
        if any(one[2] != names or not np.array_equal(one[1], of) for one in flat):
            return None
        first, second = (np.mean([one[0] for one in some], axis=0) if some else 0 for some in units)
        parts.append(sampling_spread(first - second, of))
    return None if None in parts else of_mean(parts)


def _cost(runs: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    found = [costs_of(r) for r in runs]
    columns = {name: [one[name] for one in found if one[name] is not None] for name in COSTS}
    return {name: statistics.median(values) if values else None for name, values in columns.items()}


@dataclass
class Comparison:
    """One row against another on the same tasks and seeds.

    Attributes:
        a, b: The rows.
        tasks: Tasks that both have.
        pairs: Number of (task, seed) pairs.
        difference: Mean of ``a`` minus ``b`` over tasks of the mean over common seeds, in [0, 1].
        of_tasks: That difference of each task.
        of_seeds: That difference of each common seed.
        spread: What is known of its error with other seeds, pooled from the tasks' own; None where no task has two.
        images: The same with other test images; None where a run does not say which it answered rightly.
    """

    a: Row
    b: Row
    tasks: list[str]
    pairs: int
    difference: float
    of_tasks: list[float]
    of_seeds: list[float]
    spread: Spread | None
    images: Spread | None = None

    @property
    def images_interval(self) -> Interval | None:
        """95 % interval of the difference with other test images; None where it is not known."""
        return None if self.images is None else self.images.interval(self.difference)

    @property
    def seeds_interval(self) -> Interval | None:
        """95 % interval of the difference on these very tasks with other seeds; None with a seed alone."""
        return None if self.spread is None else self.spread.interval(self.difference)

    @property
    def p_value(self) -> float | None:
        """Of the difference being zero, with other seeds; None with a seed alone."""
        return None if self.spread is None else self.spread.p_value(self.difference)

    @property
    def tasks_interval(self) -> Interval | None:
        """95 % interval of the difference on other tasks like these: Student's t over the tasks' differences. None with
        fewer than three tasks.
        """
        return student(self.of_tasks)


def compare(
    table: Mapping[Row, Mapping[str, Cell]], a: Row, b: Row, results: Results | None = None
) -> Comparison | None:
    """Compare two rows; None where no task and seed is common.

    Args:
        table: Of :func:`~vpeft.apis.results.files.cells`.
        a: The first.
        b: The second, which is taken from it.
        results: What the table is made of; without them test images are left out.
    """
    pairs: dict[str, dict[int, float]] = {}
    for task in sorted(set(table[a]) & set(table[b])):
        first, second = table[a][task].values, table[b][task].values
        if common := sorted(set(first) & set(second)):
            pairs[task] = {s: first[s] - second[s] for s in common}
    if not pairs:
        return None
    of_tasks = [statistics.fmean(values.values()) for values in pairs.values()]
    seeds = sorted(set.intersection(*(set(values) for values in pairs.values())))
    of_seeds = [statistics.fmean(values[s] for values in pairs.values()) for s in seeds]
    spread = pooled_spread([list(values.values()) for values in pairs.values()])
    count = sum(map(len, pairs.values()))
    own, other = ({task: _of_common(table[row][task], pairs[task]) for task in pairs} for row in (a, b))
    images = None if results is None else images_spread(own, results, other)
    return Comparison(a, b, list(pairs), count, statistics.fmean(of_tasks), of_tasks, of_seeds, spread, images)


def _of_common(cell: Cell, seeds: Iterable[int]) -> Cell:
    return Cell({s: cell.values[s] for s in seeds}, {s: cell.runs[s] for s in seeds})


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other one beats, by rising cost.

    Args:
        points: Pairs of (score, cost); one is beaten by another of at least its score for at most its cost.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0]))
    front: list[int] = []
    for i in order:
        best = points[front[-1]] if front else None
        if best is None or points[i][0] > best[0] or points[i] == best:
            front.append(i)
    return front
