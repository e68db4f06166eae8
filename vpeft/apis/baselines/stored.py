"""Baselines beside the results that they are to be compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpeft.apis.baselines.measure import baselines, frozen_host
from vpeft.apis.config.load import load_config
from vpeft.apis.config.recipes import recipe_label
from vpeft.core.datasets.tasks import SUITES
from vpeft.core.trained.code import code_hash, git_hash
from vpeft.errors import UserError
from vpeft.files import read_json, write_json
from vpeft.registry import nearest

#: In the folder of a benchmark's results.
FILE = "baselines.json"
#: Seeds nothing: baselines are the same on every run.
_REPAIR = "delete it, and measure them again"


def measure_baselines(config: str, tasks: Sequence[str], root: str) -> Path:
    """Measure the baselines of a config's tasks, and put them into a folder of results, those of other tasks kept.

    Args:
        config: A config of any method on the host.
        tasks: Tasks of its suite, groups, or ``all``; empty for a config without a suite.
        root: The folder.

    Raises:
        UserError: A task is unknown, or is none of classes.
    """
    cfg = load_config(config, None, {})
    suite, path, host = cfg.get("suite"), Path(root) / FILE, recipe_label(config)
    for task in _tasks(suite, tasks):
        found = {
            "suite": suite or host,
            "task": task or host,
            "data_variant": cfg.get("data_variant"),
            "config": Path(config).name,
            "values": baselines(config, task),
            "host": host,
            "frozen_host": frozen_host(config, task),
            "code": code_hash(),
            "git": git_hash(),
        }
        known = [one for one in read_baselines(root) if _place(one) != _place(found)]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"baselines": [*known, found]})
    return path


def _tasks(suite: str | None, wanted: Sequence[str]) -> list[str | None]:
    if suite is None:
        return [None]
    known = SUITES[suite]
    found: list[str | None] = []
    for name in wanted or ("all",):
        chosen = [task for task in known.values() if name in ("all", task.name, task.group, *task.aliases)]
        if not chosen:
            raise UserError(f"unknown task {name!r} of suite {suite!r}: {nearest(name, known)}")
        found += [task.name for task in chosen]
    return list(dict.fromkeys(found))


def _place(one: Mapping[str, Any]) -> tuple[Any, ...]:
    return one["suite"], one["task"], one["data_variant"]


def read_baselines(root: str | Path) -> list[dict[str, Any]]:
    """The baselines of a folder of results: ``suite``, ``task``, ``data_variant`` and ``values`` by name, and beside
    them ``frozen_host``, what the same classifier reaches on the pretrained ``host``; empty where none were measured.

    Raises:
        UserError: The file is damaged.
    """
    path = Path(root) / FILE
    if not path.is_file():
        return []
    content = read_json(path, "file of baselines", broken=_REPAIR)
    found = content.get("baselines") if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(_whole(one) for one in found):
        raise UserError(f"{path} holds no baselines: {_REPAIR}.")
    return found


def _whole(one: Any) -> bool:
    if not isinstance(one, dict) or not {"suite", "task", "data_variant", "values"} <= one.keys():
        return False
    values = one["values"]
    numbers = isinstance(values, dict) and all(isinstance(v, float) and 0 <= v <= 1 for v in values.values())
    return numbers and all(isinstance(one[key], str) for key in ("suite", "task"))
