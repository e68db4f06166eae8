"""Plans: which configs on which tasks with which seeds, from one readable file or from flags."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from mmengine import Config

from vpeft.apis.benchmark.run_job import RunJob
from vpeft.apis.config.keys.options import OPTIONS
from vpeft.apis.config.listing import config_names
from vpeft.apis.config.load import load_config
from vpeft.apis.config.names import configs_folder, located
from vpeft.apis.config.recipes import recipe_label
from vpeft.apis.jobs.shared_store import store_of_job
from vpeft.apis.rates.points import RateBudget
from vpeft.core.adaptation.peft_backbone import find_peft
from vpeft.core.contract.build import build_methods
from vpeft.core.contract.values import check_values, type_hints
from vpeft.core.datasets.tasks import GROUPS, SUITES, get_task
from vpeft.core.store import byte_count
from vpeft.errors import UserError
from vpeft.files import read_config, read_text
from vpeft.registry import nearest

#: Lowest and highest number of the fields that hold some.
LIMITS = {"seeds": (0, 2**32 - 1), "retries": (0, 1000), "threads": (1, 1024)}


@dataclass
class Plan:
    """Everything that decides which runs there are.

    Attributes:
        methods: Names as in the configs' file names (``lora``), or registered ones (``LoRA``), or ``all``.
        backbones: What follows the method in the configs' names: ``nano_vit``, or ``swin-b_coco`` in ``detection``.
        folder: Folder of configs, ``mini``, ``vtab``, ``detection``, ...
        configs: Further configs by path.
        tasks: Tasks or groups of the configs' suite, or ``all``. Configs without a suite have one task, their own.
        seeds: Seeds.
        options: Settings by dotted key that are changed in every run; a row of its own in the tables.
        sweep: Values to go through, all with all: by dotted key; by the name of a hyper-parameter for the methods that
            have it; by ``shots`` for training sets of so many images a class (null: all).
        tune: Tune each config on each task first: ``trials``, ``seed``, ``batch``, ``space``
            (:mod:`vpeft.apis.tune.study`).
        search: Run nothing; search one learning rate and size of each method over all tasks, with the same number of
            trials for all: ``trials``, ``seed``, ``rates`` (:mod:`vpeft.apis.rates.search`).
        retries: Further attempts at a run that failed.
        keep_checkpoints: Keep ``epoch_*.pth`` of finished runs.
        threads: CPU threads of a run. Another number gives results that differ in the last bits.
        data_store: Bytes, as ``"20GB"``, of decoded images that all runs share, or ``"off"``; unless given, 20 GB for
            suites of files on one machine (:func:`vpeft.apis.jobs.shared_store.store_asked`).
        feature_cache: Bytes, as ``"20GB"``, of the frozen features that all runs and trials share, in ``features`` of
            the folder of the results (:class:`~vpeft.core.hooks.feature_cache.FeatureCacheHook`).
    """

    methods: list[str] = field(default_factory=list)
    backbones: list[str] = field(default_factory=lambda: ["nano_vit"])
    folder: str = "mini"
    configs: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=lambda: ["all"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    options: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    tune: dict[str, Any] | None = None
    search: dict[str, Any] | None = None
    retries: int = 1
    keep_checkpoints: bool = False
    threads: int = 1
    data_store: str | bool | None = None
    feature_cache: str | int | None = None

    def __post_init__(self) -> None:
        for name in ("methods", "backbones", "configs", "tasks", "seeds"):
            value = getattr(self, name)
            setattr(self, name, [value] if isinstance(value, (str, int)) else value)
        check_values("plan", type_hints(Plan), LIMITS, vars(self), None)
        if self.feature_cache is not None:
            byte_count(self.feature_cache)
        for key, values in self.sweep.items():
            if not values:
                raise UserError(f"plan: sweep.{key}={values!r} must be a list of values.")
        if self.search is not None:
            RateBudget.of(self.search)
            if self.sweep or self.tune is not None:
                raise UserError("plan: search beside sweep or tune: it fixes settings for plans that come after it.")
        if not self.methods and not self.configs:
            raise UserError("plan: nothing to run: give methods or configs.")

    def entries(self) -> list[PlanRow]:
        """The configs of the plan, each once, with the labels of their rows."""
        paths = [(path, recipe_label(path)) for path in self.configs]
        for backbone, method in itertools.product(self.backbones, self.methods):
            paths += [(path, backbone) for path in _find(self.folder, method, backbone)]
        found = [
            PlanRow(path, backbone, _label(path, _stem(path, backbone))) for path, backbone in dict.fromkeys(paths)
        ]
        for entry in found:
            twins = [other for other in found if (other.label, other.backbone) == (entry.label, entry.backbone)]
            if len(twins) > 1:
                for twin in twins:
                    twin.label = _stem(twin.path, twin.backbone)
        return found

    def cells(self) -> Iterator[PlannedCell]:
        """Every config on every task with every combination of the sweep."""
        for entry in self.entries():
            suite = _load(entry.path).get("suite")
            tasks = _tasks(self.tasks, suite) if suite else [entry.backbone]
            for task, variant in itertools.product(tasks, self._variants(entry)):
                yield PlannedCell(entry, task, suite, variant)

    def _variants(self, entry: PlanRow) -> list[dict[str, Any]]:
        keys: dict[str, list[Any]] = {}
        fields = {f.name for method in build_methods(_method(entry.path)) for f in dataclasses.fields(method)}
        for key, values in self.sweep.items():
            if key == "shots" or "." in key:
                keys[key] = values
            elif key in fields:
                _check_sweep(_method(entry.path), key, values)
                keys[f"{find_peft(_load(entry.path))[0]}.method.{key}"] = values
        combinations = [dict(zip(keys, values, strict=True)) for values in itertools.product(*keys.values())]
        return [{k: v for k, v in {**self.options, **c}.items() if (k, v) != ("shots", None)} for c in combinations]

    def jobs(
        self,
        root: str,
        settings: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
        store: str | None = None,
    ) -> list[RunJob]:
        """The runs.

        Args:
            root: Folder of the results.
            settings: What tuning has found, by config and task: ``options`` by dotted key, and ``tuning``.
            store: Bytes of decoded images that the runs share, or ``off``.

        Raises:
            UserError: An option or a value of the sweep that a config refuses.
        """
        jobs = []
        for cell in self.cells():
            tuned = (settings or {}).get((cell.entry.path, cell.task), {})
            for seed in self.seeds:
                jobs.append(
                    RunJob(
                        root=str(Path(root).absolute()),
                        config=str(located(cell.entry.path).absolute()),
                        method=cell.entry.label,
                        backbone=cell.entry.backbone,
                        task=cell.task,
                        suite=cell.suite,
                        seed=seed,
                        variant=cell.variant,
                        options=dict(tuned.get("options", {})),
                        tuning=tuned.get("tuning"),
                        threads=self.threads,
                        keep_checkpoints=self.keep_checkpoints,
                        data_store=store_of_job(store, self.data_store, cell.suite),
                        feature_cache=self.feature_cache,
                    )
                )
        unique = {(j.config, j.task, j.seed, json.dumps(j.variant, sort_keys=True)): j for j in jobs}
        for job in unique.values():
            try:
                _ = job.name  # of the effective config, which refuses options
            except UserError as error:
                raise UserError(f"plan: {str(error).replace(f'{OPTIONS} ', 'options: ', 1)}") from error
        # Seed by seed, so that a benchmark that is cut off has whole tables of fewer seeds.
        return sorted(unique.values(), key=lambda job: self.seeds.index(job.seed))


@dataclass
class PlanRow:
    """A config of a plan: its path, the label of its host, and that of its method."""

    path: str
    backbone: str
    label: str


@dataclass
class PlannedCell:
    """A config on a task in one variant."""

    entry: PlanRow
    task: str
    suite: str | None
    variant: dict[str, Any]


@cache
def _load(path: str) -> Config:
    return load_config(path)


def _method(path: str) -> Any:
    place, backbone = find_peft(_load(path))
    if not place:
        raise UserError(f"plan: {path} has no method on its backbone: a plan compares methods.")
    return backbone["method"]


def _check_sweep(method: Any, key: str, values: list[Any]) -> None:
    if isinstance(method, Mapping):
        for value in values:
            build_methods({**method, key: value})


def _label(path: str, name: str) -> str:
    """The methods of a config; its own name, where it calls by that what a method's options make of it."""
    methods = build_methods(_method(path))
    types = "+".join(method.registered_name() for method in methods)
    other = re.sub(r"\W|_", "", name).lower() != re.sub(r"\W|_", "", types).lower()
    return name if other and any(method.options() for method in methods) else types


def _stem(path: str, backbone: str) -> str:
    return Path(path).stem.removesuffix(f"_{backbone}")


def _find(folder: str, method: str, backbone: str) -> list[str]:
    root = configs_folder() / folder
    names = {_stem(p, backbone): p for p in _names(str(root)) if Path(p).stem.endswith(f"_{backbone}")}
    if not names:
        known = sorted({recipe_label(p) for p in _names(str(root))})
        raise UserError(f"plan: {root} has no config of backbone {backbone!r}: {nearest(backbone, known)}")
    if method == "all":
        return [path for path in names.values() if "noah" not in _load(path)]  # a search is no run
    if method in names:
        return [names[method]]
    registered = {_label(path, name): path for name, path in names.items() if "noah" not in _load(path)}
    if method in registered:
        return [registered[method]]
    raise UserError(f"plan: no method {method!r} for {backbone} in {root}: {nearest(method, [*names, *registered])}")


@cache
def _names(root: str) -> list[str]:
    return config_names(root)


def _tasks(wanted: Sequence[str], suite: str) -> list[str]:
    found: dict[str, None] = {}
    for name in wanted:
        if name == "all":
            found |= dict.fromkeys(SUITES[suite])
        elif name in GROUPS:
            found |= {t.name: None for t in SUITES[suite].values() if t.group == name}
        else:
            found[get_task(name, suite).name] = None
    return list(found)


def load_plan(path: str | None = None, **flags) -> Plan:
    """A plan from a file, from flags, or from a file with some fields set by flags.

    Args:
        path: ``.yaml`` or ``.py``.
        **flags: Fields of :class:`Plan`; None leaves a field as it is.

    Raises:
        UserError: The file is missing or broken, or a field is unknown; the message names the nearest.
    """
    fields = {f.name for f in dataclasses.fields(Plan)}
    values: dict[str, Any] = {}
    if path is not None:
        values = read_config(path, "plan").to_dict() if Path(path).suffix == ".py" else _yaml(path)
        if not isinstance(values, dict):
            raise UserError(f"plan {path} must hold fields such as `methods: [lora]`.")
        for key in values:
            if key not in fields:
                raise UserError(f"plan {path} has an unknown field {key!r}: {nearest(key, fields)}")
    given = {k: v for k, v in flags.items() if v is not None}
    for name in ("tune", "search"):
        if isinstance(given.get(name), Mapping) and isinstance(values.get(name) or {}, Mapping):
            given[name] = {**(values.get(name) or {}), **given[name]}
    try:
        return Plan(**{**values, **given})
    except UserError as error:
        if path is None:
            raise
        where = f"{path}, with what the command sets" if given else path
        raise UserError(f"plan {where}: {str(error).removeprefix('plan: ')}") from None


class _Once(yaml.SafeLoader):
    """YAML in which a key stands once: of two values the last would be taken without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As yaml's, checked before."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _yaml(path: str) -> Any:
    text = read_text(path, "plan")
    try:
        return yaml.load(text, _Once)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark else ""
        raise UserError(f"plan {path}{place} cannot be read: {' '.join(str(error).split())}") from error
