"""Folders of runs as training leaves them, without the training."""

from __future__ import annotations

from pathlib import Path

import vpeft
from support.hosts import perturb
from vpeft.apis.config.load import load_config
from vpeft.core.models.build import build_model
from vpeft.core.trained.folder import ADAPTER

CONFIGS = Path(__file__).parents[2] / "configs"


def write_run(folder, config="lora_nano_vit", task="digits", options=None, samples=None):
    """A run whose trained parameters were moved at random; ``samples`` cuts its test set."""
    folder.mkdir(parents=True)
    cfg = load_config(CONFIGS / f"mini/{config}.py", task, options)
    if samples:
        cfg.test_dataloader.dataset.indices = samples
    cfg.work_dir = str(folder)
    model = build_model(cfg)
    model.init_weights()
    vpeft.save_adapter(perturb(model), folder / ADAPTER)
    cfg.dump(str(folder / f"{config}.py"))
    return folder
