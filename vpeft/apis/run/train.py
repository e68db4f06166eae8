"""Training and testing through mmengine's Runner."""

from __future__ import annotations

from pathlib import Path

from mmengine import Config
from mmengine.runner import Runner

from vpeft.apis.adapters import save_adapter
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.hooks.peft_hook import run_classes
from vpeft.core.trained.load import ADAPTER


def train(cfg: Config) -> Runner:
    """Train, and write the adapter file beside the last checkpoint.

    Returns:
        The runner, with the trained model.
    """
    runner = Runner.from_cfg(cfg)
    runner.train()
    model = unwrap(runner.model)
    if get_adaptation(model) is not None and runner.rank == 0:
        path = save_adapter(model, Path(runner.work_dir) / ADAPTER, classes=run_classes(runner), task=cfg.get("task"))
        runner.logger.info(f"adapter written to {path}")
    return runner
