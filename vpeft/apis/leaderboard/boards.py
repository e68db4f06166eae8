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

from vpeft.apis.results.costs import is_busy
from vpeft.apis.results.files import Cell, Results, Row, cells, digest, row_names
from vpeft.apis.results.intervals import CONFIDENCE, Interval, borrowed, holm, typical_variances
from vpeft.apis.results.statistics import Line, all_tasks, compare, line_of, lines, mean_and_std
from vpeft.apis.results.tables import kept
from vpeft.core.contract.method import CATEGORIES
from vpeft.core.contract.options import OPTIONS
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


@dataclass
class Behind:
    """A row against the best one, on the same tasks and seeds.

    Attributes:
        difference: Row minus best, in [0, 1].
        interval: 95 % interval with other seeds, None where nothing is known of what seeds do.
        borrowed: Whether the interval rests on what seeds do to other rows, since one of the two has a seed alone.
        p_value: Of no difference, corrected for as many rows being compared with the best (Holm); None as above.
        images: 95 % interval with other test images; None where runs do not say which they answered rightly.
    """

    difference: float
    interval: Interval | None
    borrowed: bool = False
    p_value: float | None = None
    images: Interval | None = None

    @property
    def tells(self) -> bool | None:
        """Whether the two can be told apart, all rows taken together; None where it is not known."""
        return None if self.p_value is None else self.p_value < 1 - CONFIDENCE


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
        cost: :data:`~vpeft.apis.results.costs.COSTS`, each a median over its runs.
        busy: Whether times of a run of it were taken while its machine was busy.
        behind: The distance to the best row; None for the best one, and where a task is missing.
        selected: Of so many rows of its method and host with different settings it is the best: its setting was chosen
            by the results shown. 0 where there is no other.
        mixed: Whether its runs are of different code.
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
    selected: int = 0
    mixed: bool = False

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
    parts: dict[Key, Results] = {}
    for path, r in shown.runs.items():
        key = Key(r["suite"] or r["task"], r["data_variant"], r["variant"].get("shots"))
        parts.setdefault(key, Results(shown.root, broken=shown.broken)).runs[path] = r
    order = sorted(parts, key=lambda key: (-len(parts[key].runs), key.name, key.data_variant, key.shots or 0))
    return [_board(key, parts[key]) for key in order]


def _board(key: Key, results: Results) -> Board:
    tasks = all_tasks(results)
    groups = {r["task"]: r["group"] for r in results.runs.values()}
    table = cells(results)
    whole = {line.row: line for line in lines(results, tasks)}
    names = row_names(table, table)
    entries = [_entry(row, names[row], table[row], whole.get(row), groups, results) for row in table]
    entries.sort(key=lambda e: (e.line is None, -len(e.cells), -(e.line.mean if e.line else 0), e.row))
    _measure_behind(entries, table, results)
    _mark_selected(entries)
    return Board(key, results, tasks, {t: groups[t] for t in tasks}, entries)


def _measure_behind(entries: Sequence[BoardRow], table: Mapping[Row, Mapping[str, Cell]], results: Results) -> None:
    """Compare every whole row with the best; one with a seed alone by what seeds do to the others."""
    best, found = entries[0], []
    seeds = [{task: list(cell.values.values()) for task, cell in row.items()} for row in table.values()]
    variances = typical_variances(seeds)
    for entry in entries[1:]:
        one = compare(table, entry.row, best.row, results) if entry.line is not None else None
        if one is None:
            continue
        spread = one.spread
        if spread is None:
            counts = {t: (len(table[entry.row][t].values), len(table[best.row][t].values)) for t in one.tasks}
            spread = borrowed(counts, variances)
        interval = None if spread is None else spread.interval(one.difference)
        entry.behind = Behind(
            one.difference, interval, spread is not None and spread.borrowed, images=one.images_interval
        )
        if spread is not None:
            found.append((entry.behind, spread.p_value(one.difference)))
    for (behind, _), corrected in zip(found, holm([p for _, p in found]), strict=True):
        behind.p_value = corrected


def _mark_selected(entries: Sequence[BoardRow]) -> None:
    """Mark the best of several settings of a method on a host; what is chosen by its result is no measurement."""
    groups: dict[tuple[str, str], list[BoardRow]] = {}
    for entry in entries:  # the best first
        if entry.line is not None:
            groups.setdefault(entry.row[:2], []).append(entry)
    for group in groups.values():
        if len(group) > 1:
            group[0].selected = len(group)


def _entry(
    row: Row,
    name: str,
    by_task: dict[str, Cell],
    line: Line | None,
    groups: Mapping[str, str | None],
    results: Results,
) -> BoardRow:
    one = line or line_of(row, by_task, results)  # its own tasks, for costs and parameters
    of_group = {g: [t for t, name in groups.items() if name == g] for g in GROUPS}
    means = {g: one.group_means[g] for g, tasks in of_group.items() if tasks and {*tasks} <= {*by_task}}
    own_runs = [results.runs[path] for cell in by_task.values() for path in cell.runs.values()]
    first, busy = own_runs[0], any(is_busy(r) for r in own_runs)
    about = about_methods([m["type"] for m in first["methods"]], one.cost["merged_ratio"] is not None)
    mixed = len({r.get("code") or r.get("git") for r in own_runs}) > 1
    return BoardRow(row, name, *about, by_task, line, means, one.parameters, one.cost, busy, mixed=mixed)


def plain_method(board: Board, entry: BoardRow) -> Mapping[str, Any] | None:
    """The method of a row, where it is one alone and without the options that go beside any: what a paper has run."""
    first = next(iter(entry.cells.values()))
    methods = board.results.runs[next(iter(first.runs.values()))]["methods"]
    return methods[0] if len(methods) == 1 and not any(methods[0].get(name) for name in OPTIONS) else None


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
