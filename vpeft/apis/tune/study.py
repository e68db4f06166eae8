"""Searching settings on ``train800`` against ``val200``, with Optuna. The test set is never read.

Every trial is decided by the study's seed, its number and the trials before it, so the same seed gives the same trials,
also where the search was killed in between. The first trial is the config as it is.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from vpeft.apis.config.load import load_config
from vpeft.apis.config.setting import setting_hash
from vpeft.apis.jobs.engines.engine import Engine
from vpeft.apis.jobs.scheduler import run_jobs
from vpeft.apis.tune.outcome import plots, trial_words
from vpeft.apis.tune.space import (
    OPTIMISER,
    adapted_place,
    config_value,
    dotted,
    each_once,
    storage_value,
    taken_values,
    with_start,
)
from vpeft.apis.tune.storage import readable
from vpeft.apis.tune.trial import LOOKS, TrialJob, open_trial, pruner, trial_splits
from vpeft.core.contract.build import build_methods
from vpeft.core.contract.search_space import COMMON, Range, Values, at_end
from vpeft.errors import UserError
from vpeft.files import read_json, write_atomically, write_json
from vpeft.registry import nearest

TUNING = "tuning"
#: In a study's folder: what decides its trials.
STUDY = "study.json"
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass
class Study:
    """A search for one config on one task.

    Attributes:
        root: Folder of all results; its own is ``<root>/<room>/<config>/<task>``.
        config: The config.
        task: Its task.
        suite: The task's suite, None for a config without.
        trials: Trials in all, given up and failed ones included.
        seed: Of the search and of every trial's training.
        batch: Trials that are decided, and may run, together. It is part of what decides them.
        space: What is searched, by name: choices or a range.
        fixed: Settings by dotted key, the same in all trials.
        grid: Go through all combinations of the choices instead of searching.
        points: The combinations of values that are gone through, each by name; empty for a search or a whole grid. Such
            trials are all trained to their end, and looked at once: what they are for is decided over several tasks.
        room: Name of the folder of the studies that it is among.
        start: The config's own values of what is searched.
        place: Where the adapted backbone stands in the config.
        data_store: As of :class:`~vpeft.apis.tune.trial.TrialJob`.
        feature_cache: As of :class:`~vpeft.apis.tune.trial.TrialJob`.
    """

    root: str
    config: str
    task: str
    suite: str | None
    trials: int = 20
    seed: int = 0
    batch: int = 1
    space: dict[str, Values] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    grid: bool = False
    start: dict[str, Any] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)
    room: str = TUNING
    place: str = "model.backbone"
    data_store: str | None = None
    feature_cache: str | int | None = None

    @classmethod
    def of(
        cls,
        config: str,
        task: str | None,
        suite: str | None,
        root: str,
        trials: int = 20,
        seed: int = 0,
        batch: int = 1,
        space: Mapping[str, Any] | None = None,
        grid: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Study:
        """A study in the space that the config's method declares.

        Args:
            config: The config.
            task: Its task, None for the config's own.
            suite: The task's suite.
            root: Folder of results.
            trials: Trials in all; with ``grid`` there is one for each combination.
            seed: Of the search and of the trainings.
            batch: Trials that are decided together.
            space: By hyper-parameter, ``lr``, ``weight_decay`` or dotted key: a list is searched (instead of the
                declared values), anything else is fixed.
            grid: Only what ``space`` lists is searched, all combinations of it.
            options: Settings by dotted key that every trial has.

        Raises:
            UserError: Unknown hyper-parameter, nothing to search, or no value of one that the host takes.
        """
        given, of_suite = dict(space or {}), task if suite else None
        place, backbone = adapted_place(load_config(config, of_suite, options))
        methods = build_methods(backbone["method"])
        known = {f.name for method in methods for f in dataclasses.fields(method)} | set(OPTIMISER)
        for name in given:
            if "." not in name and name not in known:
                raise UserError(f"space: {config} has no hyper-parameter {name!r}: {nearest(name, known)}")
        declared = {} if grid else methods[0].search_space() if len(methods) == 1 else dict(COMMON)
        lists = {name: values for name, values in given.items() if isinstance(values, list)}
        fixed = {dotted(name, place): value for name, value in given.items() if name not in lists}
        searched = {name: values for name, values in {**declared, **lists}.items() if dotted(name, place) not in fixed}
        fixed = {**(options or {}), **fixed}
        cfg = load_config(config, of_suite, fixed)
        start = {name: config_value(cfg, dotted(name, place)) for name in searched}
        if not grid:
            searched = {name: with_start(values, start[name]) for name, values in searched.items()}
        searched = {name: taken_values(config, fixed, name, place, values) for name, values in searched.items()}
        if not searched:
            raise UserError(f"{config}: nothing to search: give lists, such as --space lr=[0.001,0.01].")
        if grid:
            trials = len(list(itertools.product(*searched.values())))
        if trials < 1 or batch < 1:
            raise UserError(f"trials={trials} and batch={batch} must be at least 1.")
        task = cfg.get("task") or task or Path(config).stem
        root = str(Path(root).absolute())
        own = {"start": start, "place": place}
        return cls(root, str(config), task, suite, trials, seed, batch, searched, fixed, grid, **own)

    @classmethod
    def of_points(
        cls,
        config: str,
        task: str | None,
        suite: str | None,
        root: str,
        points: Sequence[Mapping[str, Any]],
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> Study:
        """A study of given combinations, one trial each.

        Args:
            config: The config.
            task: Its task, None for the config's own.
            suite: The task's suite.
            root: Folder of results.
            points: The combinations, by hyper-parameter, ``lr``, ``weight_decay`` or dotted key.
            seed: Of every training.
            options: Settings by dotted key that every trial has.

        Raises:
            UserError: An unknown name, or a value that the host refuses.
        """
        names = dict.fromkeys(name for point in points for name in point)
        space = {name: each_once(point[name] for point in points) for name in names}
        study = cls.of(config, task, suite, root, seed=seed, space=space, grid=True, options=options)
        if study.space != space:
            raise UserError(f"{config}: of {space} to be tried the host takes {study.space}.")
        study.points, study.trials = [dict(point) for point in points], len(points)
        return study

    @property
    def folder(self) -> Path:
        """Everything of it."""
        return Path(self.root) / self.room / Path(self.config).stem / self.task

    @property
    def storage(self) -> str:
        """URL of its SQLite file."""
        return f"sqlite:///{self.folder / 'study.db'}"

    def options(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings by dotted key of a trial with these values."""
        return {**self.fixed, **{dotted(name, self.place): value for name, value in values.items()}}

    def keys(self) -> dict[str, str]:
        """The config's key of each name that is searched."""
        return {name: dotted(name, self.place) for name in self.space}

    def description(self) -> dict[str, Any]:
        """What decides its trials, for JSON."""
        space = {n: v if isinstance(v, list) else dataclasses.asdict(v) for n, v in self.space.items()}
        # Of given points the first, so that it does not hang on what the config says of what they set.
        options = self.options(self.points[0]) if self.points else self.fixed
        setting = setting_hash(load_config(self.config, self.task if self.suite else None, options))
        own = {"setting": setting, "space": space, "seed": self.seed, "batch": self.batch, "grid": self.grid}
        return {**own, "points": self.points} if self.points else own

    def open(self) -> optuna.Study:
        """Its study, made where there is none, or read again.

        Raises:
            UserError: The folder holds another search, or its file is damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with readable(self.folder / "study.db", begun=(self.folder / STUDY).is_file()):
            return self._open()

    def _open(self) -> optuna.Study:
        study = optuna.create_study(
            storage=self.storage, study_name="study", direction="maximize", pruner=pruner(), load_if_exists=True
        )
        mine = json.loads(json.dumps(self.description()))
        if (stored := study.user_attrs.get("description", mine)) != mine:
            changed = [key for key in mine if stored.get(key) != mine[key]]
            raise UserError(f"{self.folder} holds another search ({', '.join(changed)} differ): use another folder.")
        study.set_user_attr("description", mine)
        about = {"config": self.config, "task": self.task, "suite": self.suite, "trials": self.trials}
        write_json(self.folder / STUDY, {**about, **mine})
        if not study.trials:
            names = list(self.space)
            combinations = itertools.product(*self.space.values()) if self.grid else [self.start.values()]
            if self.points:
                combinations = [[point[name] for name in names] for point in self.points]
            for values in combinations:
                study.enqueue_trial(dict(zip(names, map(storage_value, values), strict=True)))
        return study

    def suggest(self, study: optuna.Study, trial: optuna.Trial) -> dict[str, Any]:
        """The values of a trial; those that it has already are kept."""
        values = {}
        for i, (name, choices) in enumerate(self.space.items()):
            # Seeded anew for each value, so that a search that was killed between two goes on as if it was not.
            study.sampler = optuna.samplers.TPESampler(seed=(self.seed * 100_003 + trial.number * 1009 + i) % 2**31)
            if isinstance(choices, Range):
                values[name] = trial.suggest_float(name, choices.low, choices.high, log=True)
            else:
                codes = [storage_value(choice) for choice in choices]
                values[name] = choices[codes.index(trial.suggest_categorical(name, codes))]
        return values


# Working it off -----------------------------------------------------------------------------------------------------


class _Search:
    """A study that is being worked off."""

    def __init__(self, study: Study, threads: int) -> None:
        self.study, self.threads = study, threads
        self.optuna = study.open()
        self.batch: dict[str, TrialJob] = {}

    def next(self, ended: TrialJob | None = None) -> list[TrialJob]:
        """Jobs of the next batch, once all of this one have ended; none where the study is through."""
        if ended is not None:
            self.batch[ended.name] = ended
            if not all(job.done() for job in self.batch.values()):
                return []
            for job in self.batch.values():
                self._tell(job)
        # What was asked for before a kill is run again first.
        trials = [
            open_trial(self.study.storage, t._trial_id) for t in self.optuna.get_trials(states=(TrialState.RUNNING,))
        ]
        begun = sum(t.state != TrialState.WAITING for t in self.optuna.trials)
        # A batch is filled up to its end, so that one that was killed while it was asked for is the same again.
        room = min(self.study.batch - begun % self.study.batch, self.study.trials - begun)
        if not trials or begun % self.study.batch:
            trials += [self.optuna.ask() for _ in range(room)]
        jobs = [self._job(trial) for trial in trials]
        self.batch = {job.name: job for job in jobs}
        return jobs

    def _job(self, trial: optuna.Trial) -> TrialJob:
        study = self.study
        values = study.suggest(self.optuna, trial)
        return TrialJob(
            root=study.root,
            folder=str(study.folder),
            storage=study.storage,
            number=trial.number,
            identifier=trial._trial_id,
            config=str(Path(study.config).absolute()),
            task=study.task if study.suite else None,
            options=study.options(values),
            seed=study.seed,
            threads=self.threads,
            data_store=study.data_store,
            feature_cache=study.feature_cache,
            looks=1 if study.points else LOOKS,
        )

    def _tell(self, job: TrialJob) -> None:
        outcome = job.outcome()
        state = TrialState[outcome["state"].upper()]
        value = outcome["value"] if state == TrialState.COMPLETE else None
        self.optuna.tell(job.number, value, state, skip_if_finished=True)


def tune(
    studies: Sequence[Study], engine: Engine, retries: int = 1, threads: int = 1, quiet: bool = False
) -> list[dict]:
    """Work studies off, side by side, and write what they found.

    Killed and started again they go on where they were, with the trials that an unbroken search has.

    Args:
        studies: The studies.
        engine: Where trials run.
        retries: Further attempts at a trial whose worker was lost.
        threads: CPU threads of a trial.
        quiet: Show nothing.

    Returns:
        For each study but those of given points what ``best.json`` in its folder holds (:func:`write_best`).

    Raises:
        UserError: No trial of a study was completed.
    """
    searches = {str(study.folder): _Search(study, threads) for study in studies}
    jobs = [job for search in searches.values() for job in search.next()]
    total = sum(study.trials for study in studies)
    before = sum(trial.state.is_finished() for s in searches.values() for trial in s.optuna.trials)
    run_jobs(
        jobs,
        engine,
        retries,
        lambda job: searches[job.folder].next(job),
        total,
        before,
        quiet=quiet,
        figure=lambda job: trial_words(searches[job.folder].study.keys(), job.outcome()),
    )
    return [write_best(search.study, search.optuna) for search in searches.values() if not search.study.points]


def write_best(study: Study, found: optuna.Study) -> dict[str, Any]:
    """Write, into a study's folder, its best setting: ``best.json``, and ``best.py``, a config that trains alone.

    Returns:
        ``options`` by dotted key, and ``tuning``: what results say of it.

    Raises:
        UserError: No trial was completed.
    """
    complete = [t for t in found.trials if t.state == TrialState.COMPLETE]
    if not complete:
        errors = [f"trial {t.number}" for t in found.trials]
        raise UserError(f"{study.folder}: no trial was completed ({', '.join(errors)} failed): see trial*.json there.")
    best = max(complete, key=lambda t: (t.value, -t.number))
    options = read_json(study.folder / f"trial{best.number:04d}.json", "outcome of a trial")["options"]
    states = {
        state: sum(t.state.name.lower() == state for t in found.trials) for state in ("complete", "pruned", "fail")
    }
    first = found.trials[0]
    tuning = {
        "trials": study.trials,
        **states,
        "seed": study.seed,
        "batch": study.batch,
        "best_trial": best.number,
        "best_value": best.value,
        "start_value": None if study.grid else first.value,
        "at_end": [name for name, values in study.space.items() if at_end(options[dotted(name, study.place)], values)],
        "splits": trial_splits(study.suite) if study.suite else "the config's validation images",
    }
    write_json(
        study.folder / "best.json", {"config": study.config, "task": study.task, "options": options, "tuning": tuning}
    )
    cfg = load_config(study.config, study.task if study.suite else None, options)
    cfg.tuned = tuning
    text = f"# {Path(study.config).name} on {study.task}, tuned: trial {best.number} of {study.trials}, "
    text += f"{best.value:.4f} on the validation images.\n{cfg.pretty_text}"
    write_atomically(study.folder / "best.py", text.encode())
    plots(found, study.folder)
    return {"options": options, "tuning": tuning}
