"""The flags of a run, put into its config."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from mmengine import Config

from vpeft.apis.config.origin import is_given, set_by_command
from vpeft.apis.jobs.shared_store import set_limit
from vpeft.apis.run.resume import go_on
from vpeft.errors import UserError


def prepare(
    cfg: Config,
    work_dir: str,
    launcher: str = "none",
    seed: int | None = None,
    resume: str | bool = False,
    amp: bool = False,
    data_store: str | None = None,
) -> Config:
    """Put the tools' flags into a config.

    Args:
        cfg: The config, changed in place.
        work_dir: Where everything is written.
        launcher: ``none | pytorch | slurm | mpi``.
        seed: Seed of the run.
        resume: True resumes from the last readable checkpoint in ``work_dir`` where there is one, a path from that
            file (:func:`vpeft.apis.run.resume.go_on`).
        amp: Mixed precision.
        data_store: Bytes, as ``"5GB"``, of decoded images that are kept, or ``"off"``.

    Raises:
        UserError: The file to resume from is missing, broken or of another run, mixed precision is asked for without an
            accelerator, or the user's ``--cfg-options`` say otherwise than a flag.
    """
    set_by_command(cfg, {"work_dir": work_dir}, "--work-dir")
    if launcher != "none" or not is_given(cfg, "launcher"):
        set_by_command(cfg, {"launcher": launcher}, "--launcher")
    if not is_given(cfg, "experiment_name"):
        # The Runner's own name has a resolution of a second, and runs of one name share their logs.
        cfg.experiment_name = f"{Path(work_dir).name}_{time.time_ns()}"
    if seed is not None:
        set_by_command(cfg, {"randomness.seed": seed}, "--seed")
    if cfg.launcher != "none" and not torch.cuda.is_available():
        # The Runner's own wrapper names a device by its number, which a CPU has not.
        wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
        # torch's batch norm over processes works on GPUs alone
        set_by_command(cfg, {"model_wrapper_cfg": wrapper, "sync_bn": None}, "--launcher on a machine without GPU")
    if amp:
        if not torch.cuda.is_available():
            raise UserError("--amp needs an accelerator, and torch finds none: leave it out.")
        set_by_command(cfg, {"optim_wrapper.type": "AmpOptimWrapper"}, "--amp")
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    if data_store is not None:
        set_limit(cfg, data_store)
    if resume:
        go_on(cfg, work_dir, resume if isinstance(resume, str) else None)
    return cfg


def share_features(cfg: Config, limit: str | int | None, root: str) -> Config:
    """Keep frozen features in one folder for all runs below ``root``; with None as limit, as the config says.

    Raises:
        UserError: The user's ``--cfg-options`` say otherwise.
    """
    if limit is not None:
        folder = str(Path(root) / "features")
        set_by_command(cfg, {"feature_cache.limit": limit, "feature_cache.folder": folder}, "feature_cache of all runs")
    return cfg
