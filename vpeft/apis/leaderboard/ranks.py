"""The order of our methods against a published one, where tasks and backbones differ and no figure can be compared.

On a board of image classification every method that the published table has too is ranked twice, among these methods
alone: by our mean of tasks and by the printed one. The two orders are compared by Spearman's and Kendall's (tau-b)
correlation. Their 95 % intervals are percentiles of a bootstrap over methods, with the tasks as they are. Full
fine-tuning and the linear probe stand at the ends of most tables and carry an order by themselves, so both are given
without the baselines too.

A method is *out of line* where its two ranks are a third of the methods apart, and three places at the least; a
*suspect* is one that is lower here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vpeft.apis.leaderboard.boards import Board, BoardRow, plain_method
from vpeft.apis.results.intervals import CONFIDENCE
from vpeft.apis.results.published.columns import MEAN, Table

#: Fewer methods in common are in no order that tells something.
LEAST = 6
#: What a table's mean is of; boards of another metric are not put in order beside it.
METRIC = "accuracy/top1"
#: Draws of the bootstrap, and its seed: the same results give the same page.
DRAWS, SEED = 2000, 0


@dataclass(frozen=True)
class Ranked:
    """A method in both orders.

    Attributes:
        row: The published row.
        ours_name: Our row.
        baseline: Whether it is one (full fine-tuning, linear probe).
        ours, published: Means of tasks in percent.
        our_rank, published_rank: 1 is the best; equal ones share the mean of their places.
    """

    row: str
    ours_name: str
    baseline: bool
    ours: float
    published: float
    our_rank: float
    published_rank: float

    @property
    def lower(self) -> float:
        """By how many places it is lower here than published."""
        return self.our_rank - self.published_rank


@dataclass(frozen=True)
class Correlation:
    """A correlation of ranks with its 95 % interval over methods."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Order:
    """A board's rows on one backbone against a published column.

    Attributes:
        board: The board, in words.
        backbone: Its backbone.
        column: The published column.
        methods: Those in common, the best published first.
        spearman, kendall: Over all of them.
        spearman_methods, kendall_methods: Without the baselines; None where fewer than :data:`LEAST` are left.
    """

    board: str
    backbone: str
    column: str
    methods: list[Ranked]
    spearman: Correlation
    kendall: Correlation
    spearman_methods: Correlation | None
    kendall_methods: Correlation | None

    @property
    def distance(self) -> float:
        """From so many places apart a method is out of line."""
        return max(3.0, len(self.methods) / 3)

    @property
    def suspects(self) -> list[Ranked]:
        """Methods out of line that are lower here, the farthest first."""
        found = [one for one in self.methods if one.lower >= self.distance - 1e-9]
        return sorted(found, key=lambda one: -one.lower)

    @property
    def higher(self) -> list[Ranked]:
        """Methods out of line that are higher here, the farthest first."""
        found = [one for one in self.methods if one.lower <= -self.distance + 1e-9]
        return sorted(found, key=lambda one: one.lower)

    def out_of_line(self, one: Ranked) -> str:
        """``lower here``, ``higher here``, or nothing."""
        return "lower here" if one in self.suspects else "higher here" if one in self.higher else ""

    def sentences(self) -> list[str]:
        """What it says, as text."""
        said = [
            f"{self.board}, {self.backbone}, against {self.column}: {len(self.methods)} methods in common. "
            f"Spearman {self.spearman}, Kendall {self.kendall}; in brackets 95 % over methods."
        ]
        if self.spearman_methods and self.kendall_methods:
            left = sum(not one.baseline for one in self.methods)
            said.append(
                f"Without the baselines, {left} methods: Spearman {self.spearman_methods}, "
                f"Kendall {self.kendall_methods}."
            )
        apart = f"at least {self.distance:.1f} places".replace(".0 ", " ")
        for what, found in (("Suspects, lower here", self.suspects), ("Higher here", self.higher)):
            names = ", ".join(
                f"{one.ours_name} ({one.published_rank:g} published, {one.our_rank:g} here)" for one in found
            )
            said.append(f"{what} by {apart}: {names or 'none'}.")
        return said


def orders(boards: Sequence[Board], table: Table) -> tuple[list[Order], list[tuple[str, str]]]:
    """The orders of all boards that can be set against a table; and why not of others, with the board and backbone.

    Args:
        boards: Ours.
        table: A published one; one without a mean over tasks gives none.
    """
    found, reasons = [], []
    mean = next((c.name for columns in table.columns.values() for c in columns if c.kind == MEAN), None)
    for board in boards if mean else ():
        if {r["main_metric"]["name"] for r in board.results.runs.values()} != {METRIC}:
            continue
        for backbone in dict.fromkeys(entry.row[1] for entry in board.entries):
            place = f"{board.key.title()}, {backbone}"
            methods, several = _in_common(board, backbone, table, mean)
            reasons += [
                (f"order: several settings of {name} are shown, none of them its config's", place) for name in several
            ]
            if len(methods) < LEAST:
                reasons.append((f"order: {len(methods)} methods in common, at least {LEAST} are needed", place))
            else:
                found.append(_order(board, backbone, f"{table.name} ({mean})", methods))
    return found, reasons


#: A published row, our row of the same method, and the printed mean.
_Common = tuple[str, BoardRow, float]


def _in_common(board: Board, backbone: str, table: Table, mean: str) -> tuple[list[_Common], list[str]]:
    """The methods that both have; and those of which it cannot be told which row of ours is meant."""
    rows: dict[str, list[BoardRow]] = {}
    for entry in board.entries:
        method = plain_method(board, entry) if entry.row[1] == backbone and entry.line is not None else None
        if method is not None:
            rows.setdefault(method["type"], []).append(entry)
    found, several = [], []
    for label, method, _, cells in table.rows():
        ours = rows.get(method["type"], []) if method and cells[mean] else []
        alike = [entry for entry in ours if not entry.row[2]] if len(ours) > 1 else ours
        if len(alike) == 1:
            found.append((label, alike[0], float(cells[mean])))
        elif ours:
            several.append(method["type"])
    return found, several


def _order(board: Board, backbone: str, column: str, methods: Sequence[_Common]) -> Order:
    from scipy import stats

    # What is equal must not differ by rounding.
    ours = np.array([100 * entry.line.mean for _, entry, _ in methods]).round(9)
    published = np.array([mean for *_, mean in methods])
    baseline = np.array([entry.category == "baseline" for _, entry, _ in methods])
    ranks = stats.rankdata(-ours), stats.rankdata(-published)
    columns = zip(methods, baseline.tolist(), ours.tolist(), *(rank.tolist() for rank in ranks), strict=True)
    ranked = [
        Ranked(label, entry.name, is_baseline, mean, printed, our_rank, their_rank)
        for (label, entry, printed), is_baseline, mean, our_rank, their_rank in columns
    ]
    ranked.sort(key=lambda one: (one.published_rank, one.our_rank))
    both = [correlation(ours, published, measure) for measure in (spearman_of, kendall_of)]
    few = [None, None]
    if LEAST <= (~baseline).sum() < len(baseline):
        few = [correlation(ours[~baseline], published[~baseline], measure) for measure in (spearman_of, kendall_of)]
    return Order(board.key.title(), backbone, column, ranked, *both, *few)


def correlation(ours: np.ndarray, published: np.ndarray, measure: Callable[..., np.ndarray]) -> Correlation:
    """A correlation of two columns of methods, with its bootstrap interval over methods.

    Args:
        ours: Of each method, ``(methods,)``.
        published: The same.
        measure: :func:`spearman_of` or :func:`kendall_of`.
    """
    from scipy import stats

    drawn = stats.bootstrap(
        (ours, published),
        measure,
        paired=True,
        vectorized=True,
        n_resamples=DRAWS,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=SEED,
    )
    low, high = drawn.confidence_interval
    return Correlation(float(measure(ours, published)), float(low), float(high))


def spearman_of(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's correlation along the last axis; 0 where all values of one are alike, as in a draw of one method.

    :mod:`scipy.stats` has it for two columns; a bootstrap has thousands.
    """
    from scipy import stats

    return _pearson(*(stats.rankdata(values, axis=axis) - (values.shape[axis] + 1) / 2 for values in (a, b)))


def kendall_of(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    """Kendall's tau-b along the last axis: how often two methods are in the same order, over all pairs."""
    pairs = [np.sign(values[..., :, None] - values[..., None, :]) for values in (a, b)]
    return _pearson(*(signs.reshape(*signs.shape[:-2], -1) for signs in pairs))


def _pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of values whose mean is zero."""
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide((a * b).sum(-1), size, out=np.zeros_like(size), where=size > 0)
