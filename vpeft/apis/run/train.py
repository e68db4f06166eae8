"""Training through mmengine's Runner."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from mmengine import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from vpeft.apis.commands.stopping import Stopped, stop_behind
from vpeft.apis.config.origin import origin_of
from vpeft.apis.run.adapters import write_adapters
from vpeft.apis.run.due_validation import DueValidationHook
from vpeft.apis.run.moved import MovedRunHook
from vpeft.apis.run.resume import go_on
from vpeft.apis.run.runner import RUNNER
from vpeft.core.trained.folder import ORIGIN, checkpoints, clear_remains, hold, read_origin, set_aside
from vpeft.files import write_json


def train(cfg: Config) -> Runner:
    """Train, and write the adapter file beside the last checkpoint, and that of the best one beside it.

    The work directory is held while the run lasts. What an earlier run has left in it is set aside, unless this one
    goes on with it.

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
        runner = RUNNER.get().from_cfg(cfg)
        if first:
            # mmengine writes the config under its file's name, or else under that of the logs
            name = Path(cfg.filename).name if cfg.filename else f"{runner.timestamp}.py"
            _write_record(cfg, Path(cfg.work_dir), name)
        runner.register_hook(MovedRunHook())
        runner.register_hook(DueValidationHook())
        try:
            runner.train()
        except BaseException as error:
            stop = stop_behind(error)  # a library that a signal interrupts may raise an error of its own
            if stop is None:
                raise
            raise Stopped.of(stop, next(iter(checkpoints(Path(cfg.work_dir))), None)) from error
        if runner.rank == 0:
            write_adapters(runner)
    return runner


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
