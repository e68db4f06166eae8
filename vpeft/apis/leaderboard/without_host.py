"""What is reached on a board's tasks without a pretrained host, and which of them that says something of."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from vpeft.apis.baselines.stored import read_baselines
from vpeft.apis.leaderboard.boards import Board
from vpeft.apis.results.files import Cell

Without = list[tuple[str, dict[str, float]]]


def without_host(board: Board, root: Path) -> Without:
    """The baselines of a board's tasks, by name and task, in [0, 1]; empty where none were measured.

    Raises:
        UserError: The folder's file of baselines is damaged.
    """
    suites = {r["suite"] or r["task"] for r in board.results.runs.values()}
    of_board = [
        one
        for one in read_baselines(root)
        if one["suite"] in suites and one["data_variant"] == board.key.data_variant and one["task"] in board.tasks
    ]
    found: dict[str, dict[str, float]] = {}
    for one in of_board:
        for name, value in one["values"].items():
            found.setdefault(name, {})[one["task"]] = value
    return list(found.items())


def overtaken(board: Board, found: Without) -> list[str]:
    """In words, the tasks on which a baseline is above the frozen host's linear probe: they ask for no features."""
    probes = [entry for entry in board.entries if _is_probe(board, entry.cells.values())]
    said = []
    for task in board.tasks:
        own = [entry.mean(task)[0] for entry in probes if task in entry.cells]
        above = [(values[task], name) for name, values in found if task in values]
        if own and above and max(above)[0] > max(own):
            value, name = max(above)
            said.append(f"{task} (probe {100 * max(own):.1f}, {name} {100 * value:.1f})")
    if not said:
        return []
    return [f"Tasks on which a baseline without a pretrained host is above the frozen host's probe: {', '.join(said)}."]


def _is_probe(board: Board, cells: Iterable[Cell]) -> bool:
    runs = [board.results.runs[path] for cell in cells for path in cell.runs.values()]
    return all([method["type"] for method in r["methods"]] == ["Linear"] for r in runs)


def mean_without(values: dict[str, float], tasks: Sequence[str]) -> float | None:
    """The mean over a board's tasks, None where one was not measured."""
    return statistics.fmean(values[task] for task in tasks) if {*tasks} <= values.keys() else None
