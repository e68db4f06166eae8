"""The flags of a run, put into its config."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from mmengine import Config
from mmengine.runner import find_latest_checkpoint

from vpeft.errors import UserError


def prepare(
    cfg: Config,
    work_dir: str,
    launcher: str = "none",
    seed: int | None = None,
    resume: str | bool = False,
    amp: bool = False,
) -> Config:
    """Put the tools' flags into a config.

    Args:
        cfg: The config, changed in place.
        work_dir: Where everything is written.
        launcher: ``none | pytorch | slurm | mpi``.
        seed: Seed of the run.
        resume: True resumes from the last checkpoint in ``work_dir`` where there is one, a path from that file.
        amp: Mixed precision.

    Raises:
        UserError: The file to resume from is missing, or mixed precision is asked for without an accelerator.
    """
    cfg.work_dir, cfg.launcher = work_dir, launcher
    # The Runner's own name has a resolution of a second, and runs of one name share their logs.
    cfg.experiment_name = f"{Path(work_dir).name}_{time.time_ns()}"
    if seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": seed}
    if isinstance(resume, str):
        if not os.path.isfile(resume):
            raise UserError(f"--resume {resume}: no such checkpoint.")
        cfg.load_from = resume
        cfg.resume = True
    elif resume:
        cfg.resume = True
        cfg.load_from = find_latest_checkpoint(work_dir) if os.path.isdir(work_dir) else None
    if launcher != "none" and not torch.cuda.is_available():
        # The Runner's own wrapper names a device by its number, which a CPU has not.
        cfg.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
        cfg.sync_bn = None  # torch's batch norm over processes works on GPUs alone
    if amp:
        if not torch.cuda.is_available():
            raise UserError("--amp needs an accelerator, and torch finds none: leave it out.")
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    return cfg
