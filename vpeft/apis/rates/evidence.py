"""What searches for rates have found, a line a trial, and the setting of each method and host that follows from it.

A folder of configs that has the file :data:`EVIDENCE` takes the settings that follow from it
(:mod:`vpeft.apis.config.recipes`), those of methods that were tried on all tasks.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from vpeft.core.contract.search_space import STEP
from vpeft.errors import UserError
from vpeft.files import read_text, write_atomically

#: Beside the configs that it is of.
EVIDENCE = "rates.csv"
#: The learning rate's key in a config.
RATE = "optim_wrapper.optimizer.lr"
#: The adapted backbone of a config that is composed.
PLACE = "model.backbone.method"


@dataclass(frozen=True)
class RateTrial:
    """One training with one setting, looked at once on the validation images.

    Attributes:
        method: Name of the method's row, as configs are called by.
        host: Name of the recipe, as ``nano_vit``.
        task: The task; of a recipe without tasks the host's name.
        rate: Learning rate.
        size: The size or scale, as ``rank=8``; empty for a method that has none.
        validation: Main metric on the validation images, in [0, 1]; None of a training that failed.
        trials: How many trials the method had on the task, failed ones included.
        commit: Of the code, with ``+`` where its files differed from it.
    """

    method: str
    host: str
    task: str
    rate: float
    size: str
    validation: float | None
    trials: int
    commit: str


HEAD = [field.name for field in fields(RateTrial)]


@dataclass(frozen=True)
class FixedSetting:
    """The setting of a method on a host with the best mean over tasks, and what it follows from.

    Attributes:
        method, host: Whose it is.
        rate, size: As of :class:`RateTrial`.
        values: Main metric on the validation images by task.
        trials: Trials on each task.
        rates: All rates that were tried, rising.
        commits: Of the code, each once.
        lacking: Tasks that there is no trial of.
    """

    method: str
    host: str
    rate: float
    size: str
    values: dict[str, float]
    trials: int
    rates: list[float]
    commits: list[str]
    lacking: list[str]

    @property
    def mean(self) -> float:
        """Mean over the tasks that were tried."""
        return statistics.mean(self.values.values())

    @property
    def at_end(self) -> str:
        """At which end of the rates that were tried its own lies, ``lowest`` or ``highest``; empty for neither."""
        if self.rate <= self.rates[0] * STEP**0.5:
            return "lowest"
        return "highest" if self.rate >= self.rates[-1] / STEP**0.5 else ""

    def options(self) -> dict[str, Any]:
        """What it sets, by dotted key."""
        return {RATE: self.rate, **({f"{PLACE}.{name}": value for name, value in [size_of(self.size)] if name})}


def size_of(text: str) -> tuple[str, Any]:
    """Name and value of a trial's size; an empty name where it has none."""
    name, _, value = text.partition("=")
    return name, json.loads(value) if name else None


def choose(trials: Sequence[RateTrial], tasks: Iterable[str] = ()) -> FixedSetting | None:
    """The setting with the best mean over tasks on the validation images; of equal ones that of the smaller rate, and
    then of the smaller size.

    Args:
        trials: Those of one method on one host.
        tasks: The tasks that there are; those without a trial are named in the setting.

    Returns:
        None where no setting was trained on all tasks that were tried, or there are no trials.
    """
    tried = dict.fromkeys(t.task for t in trials)
    found: dict[tuple[float, str], dict[str, float]] = {}
    for t in trials:
        if t.validation is not None:
            found.setdefault((t.rate, t.size), {})[t.task] = t.validation
    whole = {setting: values for setting, values in found.items() if values.keys() == tried.keys()}
    if not whole:
        return None

    def order(setting: tuple[float, str]) -> tuple[float, float, Any]:
        mean = round(statistics.mean(whole[setting].values()), 9)  # the order of a sum is no difference
        return -mean, setting[0], size_of(setting[1])[1] or 0

    rate, size = min(whole, key=order)
    values = {task: whole[rate, size][task] for task in tried}
    return FixedSetting(
        trials[0].method,
        trials[0].host,
        rate,
        size,
        values,
        trials=min(t.trials for t in trials),
        rates=sorted({t.rate for t in trials}),
        commits=sorted({t.commit for t in trials}),
        lacking=[task for task in tasks if task not in tried],
    )


def searched_tasks(recipe: Mapping[str, Any], host: str) -> list[str]:
    """The tasks that a host's rates are searched on: ``searched_on`` of its recipe, or its suite, or its own.

    Raises:
        UserError: The suite has no such task.
    """
    from vpeft.core.datasets.tasks import SUITES, get_task  # by now with the config's own

    suite = recipe.get("suite")
    if not suite:
        return [host]
    return [get_task(name, suite).name for name in recipe.get("searched_on") or SUITES[suite]]


def searched_options(file: Path, method: str, host: str, tasks: Iterable[str]) -> dict[str, Any]:
    """What a search has fixed of a method on a host, by dotted key; nothing where it lacks one of the tasks."""
    if not file.is_file():
        return {}
    lines = _by_method(file.resolve(), file.stat().st_mtime_ns).get((method, host))
    setting = choose([_trial(file, line) for line in lines], tasks) if lines else None
    return {} if setting is None or setting.lacking else setting.options()


def read_evidence(file: Path) -> list[RateTrial]:
    """All trials of a file, in its order; none where there is no file.

    Raises:
        UserError: It is broken, or lacks trials that it says there were.
    """
    if not file.is_file():
        return []
    groups = _by_method(file.resolve(), file.stat().st_mtime_ns)
    return [_trial(file, line) for lines in groups.values() for line in lines]


def write_evidence(file: Path, trials: Iterable[RateTrial]) -> Path:
    """Put trials into a file; those of the same method, host and task that were there before go."""
    new = list(trials)
    mine = {(t.method, t.host, t.task) for t in new}
    kept = [t for t in read_evidence(file) if (t.method, t.host, t.task) not in mine]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    order = sorted([*kept, *new], key=lambda t: (t.host, t.method, t.task, t.size, t.rate))
    writer.writerows(["" if value is None else value for value in astuple(t)] for t in order)
    return write_atomically(file, text.getvalue().encode())


@cache
def _by_method(file: Path, changed: int) -> dict[tuple[str, str], list[list[str]]]:
    head, *lines = [line for line in csv.reader(io.StringIO(read_text(file, "evidence of rates"))) if line] or [[]]
    if head != HEAD:
        raise UserError(f"{file} is no evidence of rates: its first line must be {','.join(HEAD)}.")
    groups: dict[tuple[str, str], list[list[str]]] = {}
    of_task: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        if len(line) != len(HEAD):
            raise UserError(f"{file}: {','.join(line)!r} has {len(line)} fields instead of {len(HEAD)}.")
        groups.setdefault((line[0], line[1]), []).append(line)
        of_task.setdefault(tuple(line[:3]), []).append(line[6])
    for names, said in of_task.items():
        if {str(len(said))} != {*said}:
            raise UserError(f"{file}: {', '.join(names)} had {said[0]} trials, and {len(said)} are there.")
    return groups


def _trial(file: Path, line: list[str]) -> RateTrial:
    method, host, task, rate, size, validation, trials, commit = line
    try:
        found = RateTrial(
            method, host, task, float(rate), size, float(validation) if validation else None, int(trials), commit
        )
        size_of(size)
    except ValueError as error:
        raise UserError(f"{file}: {','.join(line)!r} is no trial ({error}).") from error
    if not 0 < found.rate < math.inf or not 0 <= (found.validation or 0) <= 1:
        raise UserError(f"{file}: {','.join(line)!r} is no trial: a rate is above 0, a value between 0 and 1.")
    return found
