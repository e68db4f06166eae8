"""Training and testing through mmengine's Runner."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from mmengine.runner import Runner, find_latest_checkpoint

from vpeft.apis.adapters import save_adapter
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.storing.adapter_file import read_adapter, write_adapter
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.trained.load import ADAPTER, check_methods
from vpeft.core.trained.result import run_result
from vpeft.errors import UserError
from vpeft.files import write_json


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


def train(cfg: Config) -> Runner:
    """Train, and write the adapter file beside the last checkpoint.

    Returns:
        The runner, with the trained model.
    """
    runner = Runner.from_cfg(cfg)
    runner.train()
    model = unwrap(runner.model)
    if get_adaptation(model) is not None and runner.rank == 0:
        path = save_adapter(model, Path(runner.work_dir) / ADAPTER)
        runner.logger.info(f"adapter written to {path}")
    return runner


def test(cfg: Config, checkpoint: str) -> dict[str, Any]:
    """Test a checkpoint of a run, or an adapter file, and write ``result.json`` into the work directory.

    Returns:
        The result.

    Raises:
        UserError: The file is missing, broken or foreign.
    """
    if not os.path.isfile(checkpoint):
        raise UserError(f"{checkpoint} does not exist: give a run's epoch_*.pth or its {ADAPTER}.")
    cfg.resume = False
    cfg.load_from = None if checkpoint.endswith(".safetensors") else checkpoint
    runner = Runner.from_cfg(cfg)
    model = unwrap(runner.model)
    if cfg.load_from is None:
        tensors, metadata = read_adapter(checkpoint)
        model.init_weights()
        check_methods(model, metadata, checkpoint)
        write_adapter(model, tensors, metadata, checkpoint)
    metrics = runner.test()
    result = run_result(cfg, model, metrics, checkpoint)
    if runner.rank == 0:
        write_json(Path(runner.work_dir) / "result.json", result)
    return result
