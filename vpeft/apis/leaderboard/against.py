"""Our figures against published ones, difference by difference, and our order of methods against theirs.

A difference is *beyond noise* where it is larger than both

- what the seeds say: the 95 % prediction interval of one more run, ``t(0.975, n - 1) s sqrt(1 + 1/n)`` of ``n`` seeds
  with standard deviation ``s`` (a published figure counts as one run), and
- what is known of re-runs of one public recipe with one seed, where it is (:data:`.tables.RERUN`),

and half a unit of the last printed digit on top. With a single seed and no known re-run noise nothing can be said.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vpeft.apis.leaderboard.boards import Board, BoardRow, plain_method
from vpeft.apis.leaderboard.ranks import Order, orders
from vpeft.apis.results.intervals import deviation, t_quantile
from vpeft.apis.results.published.columns import GROUP, MEAN_OF_GROUPS, PARAMETERS, PPT, TASK, Column, Table
from vpeft.core.datasets.tasks import SUITES
from vpeft.core.families.metrics import MAIN_METRICS, ppt

BEYOND, WITHIN, OPEN, EQUAL, OTHER = "beyond noise", "within noise", "cannot say", "equal", "differs"


@dataclass
class Difference:
    """One figure of ours against a published one.

    Attributes:
        row: The published row.
        ours_name: Our row.
        column: The published column's name.
        kind: Of what (:class:`~vpeft.apis.results.published.columns.Column`).
        what: Task or group.
        ours, published: Percent; millions for parameters; PPT as it is.
        std: Standard deviation over our seeds, of as many as ``seeds``; None for one.
        noise: What the difference must exceed, None where that is not known.
        verdict: :data:`BEYOND`, :data:`WITHIN` or :data:`OPEN`; for parameters :data:`EQUAL` or :data:`OTHER`.
        board: The board that ours is on.
    """

    row: str
    ours_name: str
    column: str
    kind: str
    what: str
    ours: float
    published: float
    std: float | None
    seeds: int
    noise: float | None
    verdict: str
    board: str

    @property
    def difference(self) -> float:
        """Ours minus published."""
        return self.ours - self.published


@dataclass
class Against:
    """A comparison with one table.

    Attributes:
        table: Which.
        found: Differences.
        orders: The order of our methods against the table's, board by board (:mod:`~vpeft.apis.leaderboard.ranks`).
        reasons: Why cells cannot be compared: the cells ("row: column", or a column of every row) by reason, each once.
    """

    table: Table
    found: list[Difference] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    _told: set[tuple[str, str]] = field(default_factory=set)

    def skip(self, reason: str, cell: str) -> None:
        """Note what cannot be compared."""
        if (reason, cell) not in self._told:
            self._told.add((reason, cell))
            self.reasons.setdefault(reason, []).append(cell)


def against(boards: Sequence[Board], table: Table) -> Against:
    """Compare every row of ours with the published row of its method, on the same task and backbone."""
    result, ours = Against(table), _by_method(boards)
    if table.missing:
        result.skip(table.missing, "the whole table")
        return result
    for label, method, columns, cells in table.rows():
        for column in columns:
            cell = f"{label}: {column.name}"
            printed = cells[column.name]
            if column.missing:
                result.skip(column.missing, cell)
            elif not method:
                result.skip("no registered method stands for this row", cell)
            elif not printed:
                result.skip("nothing is printed", cell)
            else:
                _compare(result, ours, label, method, column, printed, cell)
    _ours_alone(result, boards, table)
    result.orders, reasons = orders(boards, table)
    for reason, place in reasons:
        result.skip(reason, place)
    return result


#: A board's rows of one method, by backbone and the method's registered name.
_Rows = dict[tuple[str, str], list[BoardRow]]


def _by_method(boards: Sequence[Board]) -> dict[str, list[tuple[Board, _Rows]]]:
    """Boards by name, each with its rows of one method alone."""
    found: dict[str, list[tuple[Board, _Rows]]] = {}
    for board in boards:
        rows: _Rows = {}
        for entry in board.entries:
            method = plain_method(board, entry)
            if method is not None:
                rows.setdefault((entry.row[1], method["type"]), []).append(entry)
        found.setdefault(board.key.name, []).append((board, rows))
    return found


def _compare(
    result: Against,
    ours: Mapping[str, Sequence[tuple[Board, _Rows]]],
    label: str,
    method: Mapping[str, Any],
    column: Column,
    printed: str,
    cell: str,
) -> None:
    there = ours.get(column.board, [])
    if not there:
        result.skip(f"no run of {column.board} is shown", f"every row: {column.name}")
        return
    alike = [(board, rows) for board, rows in there if board.key.shots == column.shots]
    if not alike:
        few = "a few images" if column.shots is None else f"another number than {column.shots}"
        result.skip(f"ours were trained on {few} of each class", cell)
        return
    place = column.backbone, method["type"]
    matches = [(b, e) for b, rows in alike for e in rows.get(place, ()) if _is(method, b, e)]
    if not matches:
        size = " and size" if len(method) > 1 else ""
        result.skip(f"no run of this method{size} on {column.backbone} is shown", cell)
    for board, entry in matches:
        value = _ours(column, board, entry)
        if isinstance(value, str):
            result.skip(value, f"{cell} ({entry.name})")
            continue
        figure, std, seeds = value
        noise, verdict = _judge(column, result.table, figure, std, seeds, printed, entry)
        result.found.append(
            Difference(
                label,
                entry.name,
                column.name,
                column.kind,
                column.what or column.kind,
                figure,
                float(printed),
                std,
                seeds,
                noise,
                verdict,
                board.key.title(),
            )
        )


def _is(method: Mapping[str, Any], board: Board, entry: BoardRow) -> bool:
    """Whether a row of ours is of this method alone, and of its size where the printed row has one."""
    ours = plain_method(board, entry)
    return ours is not None and all(ours.get(key) == value for key, value in method.items())


def _ours(column: Column, board: Board, entry: BoardRow) -> tuple[float, float | None, int] | str:
    """Our figure, its standard deviation over seeds, and how many there are; or why there is none."""
    if column.kind == PARAMETERS:
        return entry.parameters / 1e6, None, entry.seeds
    if column.metric is not None:
        by_seed = _metric(column, board, entry)
        if isinstance(by_seed, str):
            return by_seed
        if column.kind == PPT:
            return _as_ppt(statistics.fmean(by_seed), by_seed, entry)
        return 100 * statistics.fmean(by_seed), _std(by_seed), len(by_seed)
    if column.kind == TASK:
        if column.what not in entry.cells:
            return f"no run of {column.what}"
        values = list(entry.cells[column.what].values.values())
        return 100 * statistics.fmean(values), _std(values), len(values)
    tasks = _tasks(column)
    lacking = [task for task in tasks if task not in entry.cells]
    if lacking:
        return f"{column.kind}: ours lacks {len(lacking)} of {len(tasks)} tasks"
    means = {task: statistics.fmean(entry.cells[task].values.values()) for task in tasks}
    seeds = sorted(set.intersection(*(set(entry.cells[task].values) for task in tasks)))
    of_seeds = [_average(column, {task: entry.cells[task].values[seed] for task in tasks}) for seed in seeds]
    if column.kind == PPT:
        return _as_ppt(_average(column, means), of_seeds, entry)
    return 100 * _average(column, means), _std(of_seeds), len(seeds)


def _as_ppt(metric: float, of_seeds: Sequence[float], entry: BoardRow) -> tuple[float, float | None, int]:
    count, spread = round(entry.parameters), _std(of_seeds)
    return ppt(metric, count), None if spread is None else ppt(spread / 100, count), len(of_seeds)


def _metric(column: Column, board: Board, entry: BoardRow) -> list[float] | str:
    """A named metric of each seed's run, in [0, 1]."""
    name = column.metric
    if column.what not in entry.cells:
        return f"no run of {column.what}"
    runs = [board.results.runs[path]["metrics"] for path in entry.cells[column.what].runs.values()]
    if any(not isinstance(run.get(name), (int, float)) for run in runs):
        return f"the runs have no metric {name}"
    return [run[name] / MAIN_METRICS[name] for run in runs]


def _tasks(column: Column) -> list[str]:
    """Tasks that an average is over: all of the suite, or those of a group."""
    return [t.name for t in SUITES[column.board].values() if column.kind != GROUP or t.group == column.what]


def _average(column: Column, values: Mapping[str, float]) -> float:
    if column.kind != MEAN_OF_GROUPS:
        return statistics.fmean(values.values())
    groups: dict[str, list[float]] = {}
    for task, value in values.items():
        groups.setdefault(SUITES[column.board][task].group, []).append(value)
    return statistics.fmean(map(statistics.fmean, groups.values()))


def _std(values: Sequence[float]) -> float | None:
    """In points."""
    return 100 * deviation(values) if len(values) > 1 else None


def _judge(
    column: Column, table: Table, ours: float, std: float | None, seeds: int, printed: str, entry: BoardRow
) -> tuple[float | None, str]:
    """What a difference must exceed, and the verdict."""
    distance, half = abs(ours - float(printed)), 0.5 * 10.0 ** -len(printed.partition(".")[2])
    if column.kind == PARAMETERS:
        return half, EQUAL if distance <= half + 1e-9 else OTHER
    rerun = table.rerun.get(column.what if column.kind == TASK else "mean")
    if column.kind == PPT:  # rounded parameters behind the printed one, too
        half = 0.01
        rerun = None if rerun is None else ppt(rerun / 100, round(entry.parameters))
    spread = None if std is None else seed_noise(std, seeds)
    known = [value for value in (spread, rerun) if value is not None]
    if not known:
        return None, OPEN
    noise = max(known) + half
    return noise, BEYOND if distance > noise + 1e-9 else WITHIN


def seed_noise(std: float, seeds: int) -> float:
    """Half the 95 % prediction interval of one more run: ``t s sqrt(1 + 1/n)``, t of n - 1 degrees of freedom."""
    return t_quantile(seeds - 1) * std * math.sqrt(1 + 1 / seeds)


def _ours_alone(result: Against, boards: Sequence[Board], table: Table) -> None:
    """Name what of ours has no counterpart in the table."""
    known = {(c.board, c.backbone) for columns in table.columns.values() for c in columns}
    names = {name for name, _ in known}
    printed: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for _, method, columns, _ in table.rows():
        for board, backbone in {(c.board, c.backbone) for c in columns} if method else ():
            printed.setdefault((board, backbone, method["type"]), []).append(method)
    for board in boards:
        if board.key.name not in names:
            why = f"ours, {board.key.title()}: the table is of other tasks"
            for entry in board.entries:
                result.skip(why, entry.name)
            continue
        for entry in board.entries:
            if (board.key.name, entry.row[1]) not in known:
                result.skip(f"ours, on {entry.row[1]}: the table is of other backbones", entry.name)
            else:
                own = plain_method(board, entry)
                rows = printed.get((board.key.name, entry.row[1], own["type"]), []) if own else []
                if not any(_is(method, board, entry) for method in rows):
                    other = " and size" if rows else ""
                    result.skip(f"ours: the table has no row of this method{other}", entry.name)
