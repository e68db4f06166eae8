"""Training through mmengine's Runner."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from vpeft.apis.commands.stopping import Stopped, stop_behind
from vpeft.apis.config.origin import origin_of
from vpeft.apis.config.setting import WrittenOnce
from vpeft.apis.run.adapters import write_adapters
from vpeft.apis.run.disjoint import DisjointHook
from vpeft.apis.run.due_validation import DueValidationHook
from vpeft.apis.run.moved import MovedRunHook
from vpeft.apis.run.resume import go_on
from vpeft.apis.run.runner import RUNNER
from vpeft.core.hooks.data_store import DataStore
from vpeft.core.hooks.feature_cache import FeatureCacheHook
from vpeft.core.hooks.sharding import ShardingHook
from vpeft.core.trained.folder import ORIGIN, checkpoints, clear_remains, hold, read_origin, set_aside
from vpeft.errors import UserError
from vpeft.files import write_json
from vpeft.registry import nearest


def train(cfg: Config, disjoint: DisjointHook | None = None) -> Runner:
    """Train, and write the adapter file beside the last checkpoint, and that of the best one beside it.

    The work directory is held while the run lasts. What an earlier run has left in it is set aside, unless this one
    goes on with it.

    Args:
        cfg: The run's config.
        disjoint: Looks whether training and validation have images in common; one that says so unless given.

    Returns:
        The runner, with the trained model.

    Raises:
        UserError: Another process trains in the work directory.
        Stopped: A signal has ended the run.
    """
    first = is_first(cfg.get("launcher", "none"))
    with hold(Path(cfg.work_dir)) if first else contextlib.nullcontext():
        if cfg.get("resume") and not cfg.get("load_from"):
            go_on(cfg, cfg.work_dir)
        if first:
            _make_room(cfg, Path(cfg.work_dir))
            if said := schedule_elsewhere(cfg):
                print_log(said, "current", logging.WARNING)
        runner = RUNNER.get().from_cfg(WrittenOnce.of(cfg))
        if first:
            # mmengine writes the config under its file's name, or else under that of the logs
            name = Path(cfg.filename).name if cfg.filename else f"{runner.timestamp}.py"
            _write_record(cfg, Path(cfg.work_dir), name)
        store = DataStore.started(cfg, runner)
        runner.register_hook(MovedRunHook())
        runner.register_hook(DueValidationHook())
        runner.register_hook(disjoint or DisjointHook())
        if sharding := _strategy(cfg.get("strategy")):
            runner.register_hook(sharding)
        if cache := _feature_cache(cfg.get("feature_cache") or {}):
            if sharding:  # a process that has a feature would not run the blocks that the others wait for
                raise UserError("strategy='fsdp' beside feature_cache: all processes run all blocks. Leave one out.")
            runner.register_hook(cache)
        try:
            runner.train()
        except BaseException as error:
            stop = stop_behind(error)  # a library that a signal interrupts may raise an error of its own
            if stop is None:
                raise
            raise Stopped.of(stop, next(iter(checkpoints(Path(cfg.work_dir))), None)) from error
        finally:
            if cache:
                cache.stop()
        if store:
            store.end(runner)
        if runner.rank == 0:
            write_adapters(runner)
    return runner


def _strategy(name: str | None) -> ShardingHook | None:
    if name not in (None, "fsdp"):
        raise UserError(f"strategy={name!r}: it is 'fsdp' (docs/running.md) or left out.")
    return ShardingHook() if name else None


def _feature_cache(settings: Mapping[str, Any]) -> FeatureCacheHook | None:
    known = ("limit", "folder", "views")
    for key in settings:
        if key not in known:
            raise UserError(f"feature_cache.{key}: {nearest(key, known)}")
    asked = any(settings.get(key) is not None for key in ("limit", "views"))
    return FeatureCacheHook(**{"limit": None, **settings}) if asked else None


def schedule_elsewhere(cfg: Config) -> str | None:
    """What is to be said where the learning rate's schedule does not end where training does, or None."""
    loop, schedule = cfg.get("train_cfg") or {}, cfg.get("param_scheduler") or []
    by_epoch = "max_epochs" in loop
    unit, last = ("epoch", loop.get("max_epochs")) if by_epoch else ("step", loop.get("max_iters"))
    steps = [schedule] if isinstance(schedule, dict) else list(schedule)
    ends = {i: one["end"] for i, one in enumerate(steps) if one.get("by_epoch", True) == by_epoch and "end" in one}
    place = max(ends, key=lambda one: (ends[one], one), default=None)  # of equal ends the last one is the main part's
    if place is None or last is None or ends[place] == last:
        return None
    return (
        f"training ends at {unit} {last}, the schedule of the learning rate at {unit} {ends[place]}: "
        f"param_scheduler.{place}.end={last} brings them together."
    )


def is_first(launcher: str) -> bool:
    """Whether this is the process that writes and speaks; asked before the processes know each other."""
    if launcher == "none":
        return True
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) == 0


def _write_record(cfg: Config, folder: Path, name: str) -> None:
    record = origin_of(cfg).as_json(name)
    if cfg.get("resume"):
        record["changed"] = sorted({*record["changed"], *((read_origin(folder) or {}).get("changed") or ())})
    write_json(folder / ORIGIN, record)


def _make_room(cfg: Config, folder: Path) -> None:
    clear_remains(folder)
    if cfg.get("resume"):
        return
    start = Path(cfg.load_from) if cfg.get("load_from") else None
    aside = set_aside(folder)
    if aside is None:
        return
    said = f"{folder} held an earlier run, which now stands in {aside}; --resume would go on with it."
    print_log(said, "current", logging.WARNING)
    if start is not None and start.parent.resolve() == folder.resolve() and not start.exists():
        cfg.load_from = str(aside / start.name)
