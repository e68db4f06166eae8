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
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from mmengine import Config
from optuna.trial import TrialState

from vpeft.apis.catalogue import config_parameters
from vpeft.apis.config.load import load_config
from vpeft.apis.config.setting import setting_hash
from vpeft.apis.jobs.engines.engine import Engine
from vpeft.apis.jobs.scheduler import run_jobs
from vpeft.apis.tune.outcome import plots, trial_words
from vpeft.apis.tune.storage import readable
from vpeft.apis.tune.trial import TrialJob, open_trial, pruner, trial_splits
from vpeft.core.adaptation.peft_backbone import find_peft
from vpeft.core.contract.build import build_methods
from vpeft.core.contract.search_space import COMMON, Range, Values
from vpeft.errors import UserError
from vpeft.files import read_json, write_atomically, write_json
from vpeft.registry import nearest

TUNING = "tuning"
#: Names of the optimiser's hyper-parameters.
OPTIMISER = {name: f"optim_wrapper.optimizer.{name}" for name in ("lr", "weight_decay")}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def dotted(name: str, place: str = "model.backbone") -> str:
    """The config's key of a name in a space; ``place`` is where the adapted backbone stands."""
    return name if "." in name else OPTIMISER.get(name, f"{place}.method.{name}")


@dataclass
class Study:
    """A search for one config on one task.

    Attributes:
        root: Folder of all results; its own is ``<root>/tuning/<config>/<task>``.
        config: The config.
        task: Its task.
        suite: The task's suite, None for a config without.
        trials: Trials in all, given up and failed ones included.
        seed: Of the search and of every trial's training.
        batch: Trials that are decided, and may run, together. It is part of what decides them.
        space: What is searched, by name: choices or a range.
        fixed: Settings by dotted key, the same in all trials.
        grid: Go through all combinations of the choices instead of searching.
        start: The config's own values of what is searched.
        place: Where the adapted backbone stands in the config.
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
    place: str = "model.backbone"

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
        given, cfg = dict(space or {}), load_config(config, task, options)
        place, backbone = _adapted(cfg)
        methods = build_methods(backbone["method"])
        known = {f.name for method in methods for f in dataclasses.fields(method)} | set(OPTIMISER)
        for name in given:
            if "." not in name and name not in known:
                raise UserError(f"space: {config} has no hyper-parameter {name!r}: {nearest(name, known)}")
        declared = {} if grid else methods[0].search_space() if len(methods) == 1 else dict(COMMON)
        lists = {name: values for name, values in given.items() if isinstance(values, list)}
        fixed = {dotted(name, place): value for name, value in given.items() if name not in lists}
        searched = {name: values for name, values in {**declared, **lists}.items() if dotted(name, place) not in fixed}
        cfg = load_config(config, task, {**(options or {}), **fixed})
        start = {name: _value(cfg, dotted(name, place)) for name in searched}
        if not grid:
            searched = {name: _within(values, start[name]) for name, values in searched.items()}
        for name, values in searched.items():
            if isinstance(values, list):
                searched[name] = _possible(config, {**(options or {}), **fixed}, dotted(name, place), values)
        if not searched:
            raise UserError(f"{config}: nothing to search: give lists, such as --space lr=[0.001,0.01].")
        if grid:
            trials = len(list(itertools.product(*searched.values())))
        if trials < 1 or batch < 1:
            raise UserError(f"trials={trials} and batch={batch} must be at least 1.")
        fixed = {**(options or {}), **fixed}
        task = cfg.get("task") or task or Path(config).stem
        root = str(Path(root).absolute())
        return cls(root, str(config), task, suite, trials, seed, batch, searched, fixed, grid, start, place)

    @property
    def folder(self) -> Path:
        """Everything of it."""
        return Path(self.root) / TUNING / Path(self.config).stem / self.task

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
        setting = setting_hash(load_config(self.config, self.task if self.suite else None, self.fixed))
        return {"setting": setting, "space": space, "seed": self.seed, "batch": self.batch, "grid": self.grid}

    def open(self) -> optuna.Study:
        """Its study, made where there is none, or read again.

        Raises:
            UserError: The folder holds another search, or its file is damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with readable(self.folder / "study.db"):
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
        if not study.trials:
            names = list(self.space)
            combinations = itertools.product(*self.space.values()) if self.grid else [self.start.values()]
            for values in combinations:
                study.enqueue_trial(dict(zip(names, map(_code, values), strict=True)))
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
                codes = [_code(choice) for choice in choices]
                values[name] = choices[codes.index(trial.suggest_categorical(name, codes))]
        return values


def _adapted(cfg: Config) -> tuple[str, dict[str, Any]]:
    place, backbone = find_peft(cfg)
    if not place:
        raise UserError(f"{cfg.filename} has no method on its backbone: there is none to tune.")
    return place, backbone


def _code(value: Any) -> Any:
    """A choice as the storage takes it."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _value(cfg: Config, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, list) else node.get(part)
    place, backbone = find_peft(cfg)
    if node is None and key.startswith(f"{place}.method."):
        node = getattr(build_methods(backbone["method"])[0], key.rsplit(".", 1)[1])
    return list(node) if isinstance(node, tuple) else node


def _within(values: Values, start: Any) -> Values:
    """The space with the config's own value in it."""
    if isinstance(values, Range):
        return Range(min(values.low, start), max(values.high, start))
    return values if start in values else [start, *values]


def _possible(config: str, options: Mapping[str, Any], key: str, values: list[Any]) -> list[Any]:
    """The values of a key that the host takes."""
    refusals = [_refusal(config, json.dumps({**options, key: value})) for value in values]
    found = [value for value, refusal in zip(values, refusals, strict=True) if refusal is None]
    if not found:
        raise UserError(f"space: no value of {key.rpartition('.')[2]} fits: {refusals[-1]}")
    return found


@cache
def _refusal(config: str, options: str) -> str | None:
    """Why a config cannot be built with these options, None where it can; the task does not matter."""
    try:
        config_parameters(load_config(config, options=json.loads(options)))
    except UserError as error:
        return str(error)
    return None


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
        For each study what ``best.json`` in its folder holds (:func:`write_best`).

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
    return [write_best(search.study, search.optuna) for search in searches.values()]


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
