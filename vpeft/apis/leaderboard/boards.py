"""Results on boards: one board for what can be ranked together.

A board holds the tasks of one suite, or one task that is of no suite, with one data variant and one number of shots:
an average over anything else would mean nothing. Its rows are methods on backbones; those that lack a task are on the
board, without averages and behind the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vpeft.apis.results.files import Cell, Results, Row, cells, digest, row_name
from vpeft.apis.results.statistics import Line, all_tasks, compare, lines, mean_and_std
from vpeft.apis.results.tables import kept
from vpeft.core.contract.method import CATEGORIES
from vpeft.core.datasets.tasks import GROUPS
from vpeft.errors import one_line
from vpeft.registry import PEFT_METHODS

#: Memory classes (:class:`vpeft.core.contract.method.Method`), the lightest first.
MEMORY = {
    "M0": "no gradient enters the backbone",
    "M1": "the upper part of the backbone",
    "M1w": "the upper part, with dense weight gradients",
    "M2": "activations of all blocks",
    "M2w": "activations of all blocks, with dense weight gradients",
}
#: Costs of a row, each a median over its runs.
COSTS = ("step_seconds", "peak_memory_bytes", "adapter_bytes", "inference_ratio", "merged_ratio")
#: Load per processor above which a time is marked: a quarter more than the machine can do at once.
BUSY = 1.25


@dataclass(frozen=True)
class Key:
    """What a board is about.

    Attributes:
        name: The suite, or the task where it is of none.
        data_variant: Of all its runs.
        shots: Training images of each class, None for all.
    """

    name: str
    data_variant: str
    shots: int | None = None

    def title(self) -> str:
        """In words."""
        shots = "" if self.shots is None else f", {self.shots} training images a class"
        return f"{self.name} ({self.data_variant}{shots})"

    def slug(self) -> str:
        """As part of a file's name."""
        text = "-".join(filter(None, (self.name, self.data_variant, self.shots and f"{self.shots}shot")))
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:100]
        # Two boards whose names are alike but for other signs, or longer, are two files.
        return plain if re.sub(r"[ ,]", "_", text) == plain else f"{plain}-{digest(text)[:8]}"

    def holds(self, result: Mapping[str, Any]) -> bool:
        """Whether a result is of this board; a failed run names no data variant."""
        variant = result.get("data_variant", self.data_variant)
        name = result["suite"] or result["task"]
        return (name, variant, result["variant"].get("shots")) == (self.name, self.data_variant, self.shots)


@dataclass
class Behind:
    """A row against the best one, on the same tasks and seeds.

    Attributes:
        difference: Row minus best, in [0, 1].
        interval: 95 % interval with other seeds, None with fewer than two common seeds.
    """

    difference: float
    interval: tuple[float, float] | None

    @property
    def tells(self) -> bool:
        """Whether the two can be told apart."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass
class BoardRow:
    """A row of a board.

    Attributes:
        row: Whose it is.
        name: Its name among the board's rows.
        category: The survey's category; of several methods all of them, joined by " + ".
        memory: The heaviest memory class of its methods.
        merges: ``yes``, ``partly`` or ``no``.
        cells: By task.
        line: Averages and costs, None where a task is missing.
        groups: Mean of each group of which it has all tasks.
        parameters: Trained parameters without the head, averaged over its tasks.
        cost: :data:`COSTS`.
        busy: Whether a run of it was trained while its machine was busy (:data:`BUSY`).
        behind: The distance to the best row; None for the best one, and where a task is missing.
    """

    row: Row
    name: str
    category: str
    memory: str
    merges: str
    cells: dict[str, Cell]
    line: Line | None
    groups: dict[str, float]
    parameters: float
    cost: dict[str, float | None]
    busy: bool = False
    behind: Behind | None = None

    def mean(self, task: str) -> tuple[float, float | None]:
        """Mean over seeds and their standard deviation (n - 1), None of a single seed."""
        return mean_and_std(list(self.cells[task].values.values()))

    @property
    def seeds(self) -> int:
        """The fewest seeds of its cells."""
        return min(len(cell.values) for cell in self.cells.values())


@dataclass
class Board:
    """A board.

    Attributes:
        key: What it is about.
        results: The runs that it is made of.
        tasks: Its columns, in VTAB's order of groups.
        groups: Group by task, None where the task has none.
        entries: Its rows, the best first; those that lack a task last.
    """

    key: Key
    results: Results
    tasks: list[str]
    groups: dict[str, str | None]
    entries: list[BoardRow]

    @property
    def group_names(self) -> list[str]:
        """Groups of its tasks, in order."""
        return [g for g in GROUPS if g in self.groups.values()]


def boards(results: Results, everything: bool = False) -> list[Board]:
    """Boards of results, those of most runs first.

    Args:
        results: Any; failed runs are on no board.
        everything: Runs off the protocol too.
    """
    shown = kept(results, everything)
    sizes: dict[Key, int] = {}
    for r in shown.runs.values():
        key = Key(r["suite"] or r["task"], r["data_variant"], r["variant"].get("shots"))
        sizes[key] = sizes.get(key, 0) + 1
    order = sorted(sizes, key=lambda key: (-sizes[key], key.name, key.data_variant, key.shots or 0))
    return [_board(key, shown.where(key.holds)) for key in order]


def _board(key: Key, results: Results) -> Board:
    tasks = all_tasks(results)
    groups = {r["task"]: r["group"] for r in results.runs.values()}
    table = cells(results)
    whole = {line.row: line for line in lines(results, tasks)}
    entries = [_entry(row, by_task, whole.get(row), groups, table, results) for row, by_task in table.items()]
    entries.sort(key=lambda e: (e.line is None, -len(e.cells), -(e.line.mean if e.line else 0), e.row))
    best = entries[0]
    for entry in entries[1:]:
        if entry.line is not None and (found := compare(table, entry.row, best.row)) is not None:
            entry.behind = Behind(found.difference, found.seeds_interval)
    return Board(key, results, tasks, {t: groups[t] for t in tasks}, entries)


def _entry(
    row: Row,
    by_task: dict[str, Cell],
    line: Line | None,
    groups: Mapping[str, str | None],
    table: Mapping[Row, Any],
    results: Results,
) -> BoardRow:
    one = line
    if one is None:  # its own tasks, for costs and parameters
        own = results.where(lambda r: r["task"] in by_task)
        one = next(found for found in lines(own, list(by_task)) if found.row == row)
    of_group = {g: [t for t, name in groups.items() if name == g] for g in GROUPS}
    means = {g: one.group_means[g] for g, tasks in of_group.items() if tasks and {*tasks} <= {*by_task}}
    own_runs = [results.runs[path] for cell in by_task.values() for path in cell.runs.values()]
    first, busy = own_runs[0], any(is_busy(r) for r in own_runs)
    about = about_methods([m["type"] for m in first["methods"]], one.cost["merged_ratio"] is not None)
    return BoardRow(row, row_name(row, table), *about, by_task, line, means, one.parameters, one.cost, busy)


def is_busy(result: Mapping[str, Any]) -> bool:
    """Whether a run was trained while more work waited than its machine can do; False where it is not known."""
    return (result["cost"].get("load") or 0) > BUSY


def about_methods(names: Sequence[str], was_merged: bool) -> tuple[str, str, str]:
    """Category, memory class, and whether they merge, of one method or several.

    Args:
        names: Registered names; another is of the category ``unknown``.
        was_merged: Whether a run has merged them, for methods that merge with some options alone.
    """
    found = [PEFT_METHODS.module_dict.get(name) for name in names]  # `get` would import what a name leads to
    if not names or None in found:
        return "unknown", "unknown", "yes" if was_merged else "no"
    order = list(MEMORY)
    categories = sorted({method.category for method in found}, key=CATEGORIES.index)
    if was_merged or all(method.mergeable for method in found):
        merges = "yes"
    else:
        merges = "partly" if any(m.partly_mergeable or m.mergeable for m in found) else "no"
    return " + ".join(categories), max((m.memory for m in found), key=order.index), merges


def left_out(results: Results, shown: Sequence[Board], everything: bool = False) -> list[tuple[str, str]]:
    """Files that no board of ``shown`` uses, relative to the results' folder, each with the reason."""
    found = []
    for path, r in results.runs.items():
        if r["status"] == "failed":
            last = one_line((r["error"].strip().splitlines() or ["no message"])[-1], 300)
            found.append((path, f"failed: {last}"))
        elif r["protocol"]["faults"] and not everything:
            found.append((path, "off the protocol: " + "; ".join(r["protocol"]["faults"])))
    of_cells = [cell for board in shown for entry in board.entries for cell in entry.cells.values()]
    found += [(path, "of a setting that was changed since") for cell in of_cells for path in cell.older]
    return [(str(path.relative_to(results.root)), why) for path, why in found]
