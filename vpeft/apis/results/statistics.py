"""Means, spreads and comparisons over seeds and tasks; the Pareto front."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vpeft.apis.results.files import Cell, Results, Row, cells
from vpeft.core.families.metrics import ppt

CONFIDENCE = 0.95


@dataclass
class Line:
    """A row of a table.

    Attributes:
        row: Whose it is.
        cells: Its cells by task.
        mean: Mean over tasks of the means over seeds ("mean of tasks"), in [0, 1].
        std: Standard deviation over seeds of a seed's mean over tasks; None with fewer than two seeds that have all.
        group_means: Mean of each VTAB group's tasks that are there.
        mean_of_groups: Mean of these; None where a task has no group.
        parameters: Trained parameters without the head: those of its tasks, averaged (most methods have one number).
        ppt: Of ``mean`` and ``parameters``.
        cost: Medians over its runs of step seconds, peak memory, size of the adapter file, inference ratios.
    """

    row: Row
    cells: dict[str, Cell]
    mean: float
    std: float | None
    group_means: dict[str, float]
    mean_of_groups: float | None
    parameters: float
    ppt: float
    cost: dict[str, float | None]


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1), None for a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def lines(results: Results, tasks: Sequence[str] | None = None) -> list[Line]:
    """A line per row that has every task, the best first.

    Args:
        results: Results; failed ones are left out.
        tasks: Columns; all that any row has unless given.
    """
    table = cells(results)
    tasks = list(tasks or all_tasks(results))
    found = [
        _line(row, {t: by_task[t] for t in tasks}, results) for row, by_task in table.items() if {*tasks} <= {*by_task}
    ]
    return sorted(found, key=lambda line: (-line.mean, line.row))


def all_tasks(results: Results) -> list[str]:
    """Tasks of the results in their suites' order, group by group; those of no suite behind them, by name."""
    from vpeft.core.datasets.tasks import TASKS  # with all data sets, which a help does without

    found = {r["task"] for r in results.ok().runs.values()}
    return [task for task in TASKS if task in found] + sorted(found - set(TASKS))


def _line(row: Row, by_task: dict[str, Cell], results: Results) -> Line:
    from vpeft.core.datasets.tasks import GROUPS

    runs = [results.runs[path] for cell in by_task.values() for path in cell.runs.values()]
    means = {task: statistics.mean(cell.values.values()) for task, cell in by_task.items()}
    groups: dict[str | None, list[float]] = {}
    for task, cell in by_task.items():
        group = results.runs[next(iter(cell.runs.values()))]["group"]
        groups.setdefault(group, []).append(means[task])
    group_means = {g: statistics.mean(groups[g]) for g in GROUPS if g in groups}
    by_group = statistics.mean(group_means.values()) if None not in groups else None
    seeds = set.intersection(*(set(cell.values) for cell in by_task.values()))
    of_seeds = [statistics.mean(cell.values[s] for cell in by_task.values()) for s in sorted(seeds)]
    overall = statistics.mean(means.values())
    counts = {r["task"]: r["parameters"]["trainable_without_head"] for r in runs}
    parameters = statistics.mean(counts.values())
    spread = statistics.stdev(of_seeds) if len(of_seeds) > 1 else None
    return Line(row, by_task, overall, spread, group_means, by_group, parameters, ppt(overall, parameters), _cost(runs))


def _cost(runs: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    names = ("step_seconds", "peak_memory_bytes", "adapter_bytes", "inference_ratio", "merged_ratio")
    columns = {name: [v for r in runs if (v := r["cost"].get(name)) is not None] for name in names}
    return {name: statistics.median(values) if values else None for name, values in columns.items()}


@dataclass
class Comparison:
    """One row against another on the same tasks and seeds.

    Attributes:
        a, b: The rows.
        tasks: Tasks that both have.
        pairs: Number of (task, seed) pairs.
        difference: Mean of ``a`` minus ``b`` over tasks of the mean over common seeds, in [0, 1].
        of_seeds: That difference of each common seed.
        seeds_interval: 95 % interval of the difference on these very tasks with other seeds: Student's t over the
            seeds' differences. None with fewer than two common seeds.
        tasks_interval: 95 % interval of the difference on other tasks like these: BCa bootstrap over the tasks'
            differences. None with fewer than three tasks.
        p_value: Of the paired t-test over seeds, None as above.
    """

    a: Row
    b: Row
    tasks: list[str]
    pairs: int
    difference: float
    of_seeds: list[float]
    seeds_interval: tuple[float, float] | None
    tasks_interval: tuple[float, float] | None
    p_value: float | None


def compare(table: Mapping[Row, Mapping[str, Cell]], a: Row, b: Row) -> Comparison | None:
    """Compare two rows of :func:`~vpeft.apis.results.files.cells`; None where no task and seed is common."""
    pairs: dict[str, dict[int, float]] = {}
    for task in sorted(set(table[a]) & set(table[b])):
        first, second = table[a][task].values, table[b][task].values
        if common := sorted(set(first) & set(second)):
            pairs[task] = {s: first[s] - second[s] for s in common}
    if not pairs:
        return None
    of_tasks = [statistics.mean(values.values()) for values in pairs.values()]
    seeds = sorted(set.intersection(*(set(values) for values in pairs.values())))
    of_seeds = [statistics.mean(values[s] for values in pairs.values()) for s in seeds]
    over_seeds, p = _student(of_seeds)
    return Comparison(
        a,
        b,
        list(pairs),
        sum(map(len, pairs.values())),
        statistics.mean(of_tasks),
        of_seeds,
        over_seeds,
        _bootstrap(of_tasks),
        p,
    )


def _student(values: Sequence[float]) -> tuple[tuple[float, float] | None, float | None]:
    if len(values) < 2:
        return None, None
    if np.ptp(values) == 0:  # no spread: the test divides by zero
        return (values[0], values[0]), float(values[0] == 0)
    from scipy import stats

    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return (float(low), float(high)), float(test.pvalue)


def _bootstrap(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 3:
        return None
    if np.ptp(values) == 0:
        return values[0], values[0]
    from scipy import stats

    rng = np.random.default_rng(0)
    found = stats.bootstrap((values,), np.mean, confidence_level=CONFIDENCE, method="BCa", rng=rng)
    low, high = found.confidence_interval
    return float(low), float(high)


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
