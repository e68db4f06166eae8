"""The tasks of all suites; each suite stands in the file of its data set, and registers itself here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vpeft.errors import UserError
from vpeft.registry import nearest

GROUPS = ("natural", "specialized", "structured")


@dataclass(frozen=True)
class Splits:
    """The lists of a suite, by what the protocol does with them.

    Attributes:
        tune: Trained on while settings are searched.
        val: What the search looks at.
        final: Trained on with the setting that was found.
        test: Looked at once, at the end.
        shifted: Whether the test images have shifted versions (:mod:`vpeft.core.datasets.embedded.shifts`).
    """

    tune: str
    val: str
    final: str
    test: str = "test"
    shifted: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Each list once."""
        return tuple(dict.fromkeys((self.tune, self.val, self.final, self.test)))

    def holds_val(self, split: str) -> bool:
        """Whether a training list has the images of ``val`` among its own."""
        return split == self.final != self.tune


#: Lists by suite, and tasks by suite and name, as the files of the data sets register them.
SPLITS: dict[str, Splits] = {}
#: Names of the suites as people write them.
TITLES: dict[str, str] = {}
SUITES: dict[str, dict[str, Task]] = {}
#: All of them by name.
TASKS: dict[str, Task] = {}


@dataclass(frozen=True)
class Task:
    """One classification task.

    Attributes:
        name: Its name, and its folder in the public layout.
        suite: Key of ``SUITES``.
        group: ``natural | specialized | structured``, None in suites without groups.
        num_classes: Classes.
        test_size: Images of the test split.
        flip_safe: Whether a horizontal flip keeps the label.
        aliases: Other names of the folder.
        train_sizes: Images of the suite's lists ``tune`` and ``val``.
    """

    name: str
    suite: str
    group: str | None
    num_classes: int
    test_size: int
    flip_safe: bool = True
    aliases: tuple[str, ...] = ()
    train_sizes: tuple[int, int] = (800, 200)

    @property
    def sizes(self) -> dict[str, int]:
        """Images of every list."""
        splits, (tune, val) = SPLITS[self.suite], self.train_sizes
        whole = {splits.final: tune + val} if splits.holds_val(splits.final) else {}
        return {splits.tune: tune, splits.val: val, **whole, splits.test: self.test_size}


def register_suite(
    suite: str, splits: Splits, rows: Mapping[str | None, Sequence[tuple[Any, ...]]], title: str | None = None
) -> None:
    """Make a suite known; the file of its data set does it.

    Args:
        suite: Its key.
        splits: Its lists.
        rows: Its tasks by group (None in suites without groups): what :class:`Task` has, from ``name`` on without
            ``suite`` and ``group``.
        title: Its name as people write it; ``suite`` unless given.
    """
    SPLITS[suite] = splits
    TITLES[suite] = title or suite
    SUITES[suite] = {row[0]: Task(row[0], suite, group, *row[1:]) for group, tasks in rows.items() for row in tasks}
    TASKS.update(SUITES[suite])


def get_task(name: str, suite: str) -> Task:
    """A task of a suite by its name or an alias.

    Raises:
        UserError: Unknown suite or task; the message names the nearest.
    """
    if suite not in SUITES:
        raise UserError(f"unknown suite {suite!r}: {nearest(suite, SUITES)}")
    tasks = SUITES[suite]
    names = {alias: task for task in tasks.values() for alias in (task.name, *task.aliases)}
    if name not in names:
        raise UserError(f"unknown task {name!r} of suite {suite!r}: {nearest(name, tasks)}")
    return names[name]


def check_split(split: str, suite: str) -> None:
    """Refuse an unknown split.

    Raises:
        UserError: The split is none of the suite's; the message names the nearest.
    """
    if split not in SPLITS[suite].names:
        raise UserError(f"unknown split {split!r} of suite {suite!r}: {nearest(split, SPLITS[suite].names)}")
