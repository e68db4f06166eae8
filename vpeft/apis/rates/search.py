"""The search of a plan: the same number of trials for every method, and no look at the test images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpeft.apis.benchmark.plan import Plan, PlannedCell
from vpeft.apis.config.names import located
from vpeft.apis.config.recipes import recipe_label
from vpeft.apis.jobs.engines.build import build_engine
from vpeft.apis.jobs.shared_store import store_of_job
from vpeft.apis.rates.evidence import RateTrial, choose
from vpeft.apis.rates.points import RateBudget, RateSpace
from vpeft.apis.tune.space import OPTIMISER
from vpeft.apis.tune.study import STUDY, TUNING, Study, tune
from vpeft.files import read_json

#: Folders of the studies of rates from end to end, of those beside the best one, and of sizes there.
ROOMS = ("rates", "beside", "sizes")
#: Digits of a commit that are kept.
DIGITS = 10


def search_rates(plan: Plan, root: str, engine: str, options: Mapping[str, Any], store: str) -> list[RateTrial]:
    """Work the search of a plan off; started again after it was stopped it goes on where it was.

    First rates from end to end of each method's range, at its own size; then rates beside the best one; then, with the
    trials that are left, other sizes at the best rate, or rates between.

    Args:
        plan: A plan with ``search``.
        root: Folder of the results.
        engine: Where trials run.
        options: Options of the engine.
        store: Decoded images that the runs share (:func:`~vpeft.apis.jobs.shared_store.store_asked`).

    Returns:
        All trials.

    Raises:
        UserError: The budget is less than the rates of a method.
    """
    budget, cells = RateBudget.of(plan.search or {}), list(plan.cells())
    spaces = rate_spaces(cells, budget)

    def work(room: str, points: Mapping[str, list[dict[str, Any]]]) -> None:
        studies = []
        for cell in cells:
            if points.get(cell.entry.path):
                own = points[cell.entry.path]
                study = Study.of_points(
                    cell.entry.path, cell.task, cell.suite, root, own, seed=budget.seed, options=cell.variant
                )
                study.room, study.feature_cache = room, plan.feature_cache
                study.data_store = store_of_job(store, plan.data_store, cell.suite)
                studies.append(study)
        if studies:
            with build_engine(engine, **options) as where:
                tune(studies, where, plan.retries)

    work(ROOMS[0], {path: space.first() for path, space in spaces.items()})
    # Each stage follows from those before it alone, so that it is the same when the search is started again.
    rates, beside, sizes = {path: list(space.rates) for path, space in spaces.items()}, {}, {}
    for path, best in _best_of(root, ROOMS[:1], rates):
        beside[path] = spaces[path].second(best, budget.trials - len(rates[path]))
    work(ROOMS[1], beside)
    for path, points in beside.items():
        rates[path] += [point["lr"] for point in points]
    for path, best in _best_of(root, ROOMS[:2], rates):
        sizes[path] = spaces[path].third(rates[path], best, budget.trials - len(rates[path]))
    work(ROOMS[2], sizes)
    return read_trials(root).trials


def trials_of_plan(plan: Plan) -> str:
    """How many trials a plan's search has, in a line.

    Raises:
        UserError: As :func:`rate_spaces`.
    """
    budget, cells = RateBudget.of(plan.search or {}), list(plan.cells())
    rates = sorted({len(space.rates) for space in rate_spaces(cells, budget).values()})
    first = " or ".join(map(str, rates))
    each = f"{budget.trials} trials each, {first} of rates and the rest around the best; no test image is read"
    return f"search: {len(cells)} pairs of config and task, {each}: {budget.trials * len(cells)} trainings"


def rate_spaces(cells: list[PlannedCell], budget: RateBudget) -> dict[str, RateSpace]:
    """The space of every config of a plan.

    Raises:
        UserError: The budget is less than the rates of one.
    """
    spaces = {cell.entry.path: cell.variant for cell in cells}
    return {path: RateSpace.of(path, variant, budget) for path, variant in spaces.items()}


def _best_of(root: str, rooms: Sequence[str], rates: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, float]]:
    """The best of the rates of each config; nothing of a config whose every rate failed."""
    tried: dict[str, list[RateTrial]] = {}
    for trial in read_trials(root, rooms).trials:
        tried.setdefault(f"{trial.method}_{trial.host}", []).append(trial)
    for path, own in rates.items():
        best = choose([trial for trial in tried.get(Path(path).stem, ()) if trial.rate in own])
        if best is not None:
            yield path, best.rate


@dataclass
class FoundTrials:
    """What a folder of results holds of searches.

    Attributes:
        trials: Those of finished studies of rates.
        unfinished: Studies of rates that have not been gone through, which are left out.
        searches: Searches of :mod:`vpeft.apis.tune`.
        at_end: What these found best at an end of what they searched, in words.
    """

    trials: list[RateTrial] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    searches: int = 0
    at_end: list[str] = field(default_factory=list)


def read_trials(root: str | Path, rooms: Sequence[str] = ROOMS) -> FoundTrials:
    """The trials of a folder of results.

    Args:
        root: The folder.
        rooms: Which of :data:`ROOMS` are read.

    Raises:
        UserError: A file of a study is broken.
    """
    found = FoundTrials()
    of_task: dict[tuple[str, str, str], list[RateTrial]] = {}
    for room in rooms:
        for file in sorted((Path(root) / room).glob(f"*/*/{STUDY}")):
            study = _read(file)
            outcomes = [file.parent / f"trial{number:04d}.json" for number in range(study["trials"])]
            if not all(outcome.is_file() for outcome in outcomes):
                found.unfinished.append(str(file.parent))
                continue
            for outcome in outcomes:
                trial = _trial_of(study, _read(outcome))
                of_task.setdefault((trial.method, trial.host, trial.task), []).append(trial)
    for trials in of_task.values():
        found.trials += [RateTrial(**{**vars(one), "trials": len(trials)}) for one in trials]
    for file in sorted((Path(root) / TUNING).glob("*/*/best.json")):
        best, found.searches = _read(file), found.searches + 1
        ends = ", ".join(best["tuning"].get("at_end", ()))
        if ends:
            found.at_end.append(f"{file.parent}: the best {ends} lies at an end of what was searched")
    return found


def _read(file: Path) -> dict[str, Any]:
    return read_json(file, "outcome of a search", broken="delete its folder, and it is searched again")


def _trial_of(study: Mapping[str, Any], outcome: Mapping[str, Any]) -> RateTrial:
    config, options = study["config"], outcome["options"]
    host = recipe_label(config)
    method = located(config).stem.removesuffix(f"_{host}")
    names = [name for name in study["space"] if name not in OPTIMISER]
    size = ", ".join(f"{name}={json.dumps(_by_name(options, name))}" for name in names)
    git = outcome.get("git") or ""
    commit = git[:DIGITS] + "+" * git.endswith("+")
    value = outcome.get("value") if outcome["state"] == "complete" else None
    return RateTrial(method, host, study["task"], options[OPTIMISER["lr"]], size, value, 0, commit)


def _by_name(options: Mapping[str, Any], name: str) -> Any:
    return next(value for key, value in options.items() if key == name or key.endswith(f".method.{name}"))
