"""Models from configs, and what a run has learned put into them."""

from __future__ import annotations

import os
from typing import Any

from mmengine import Config
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import nn

from vpeft.core.adaptation.find import attached_methods
from vpeft.core.adaptation.storing.adapter_file import put_adapter, read_adapter, read_metadata
from vpeft.core.adaptation.storing.checkpoint import check_checkpoint
from vpeft.core.adaptation.storing.fit import check_methods, check_task
from vpeft.core.models.build import build_model
from vpeft.errors import UserError


def load_trained(cfg: Config, checkpoint: str) -> nn.Module:
    """The model of a config with its base weights and what a run has learned.

    Args:
        cfg: The run's config.
        checkpoint: Its ``epoch_*.pth`` or its adapter file.

    Raises:
        UserError: The file is missing, broken or foreign.
    """
    if not os.path.isfile(checkpoint):
        raise UserError(f"{checkpoint} does not exist.")
    model = build_model(cfg)
    model.init_weights()
    if checkpoint.endswith(".safetensors"):
        tensors, metadata = read_adapter(checkpoint)
        check_methods(attached_methods(model), metadata["methods"], checkpoint)
        check_task(metadata, checkpoint, cfg.get("task"))
        put_adapter(model, tensors, metadata, checkpoint)
    else:
        loaded = CheckpointLoader.load_checkpoint(checkpoint, "cpu")
        check_checkpoint(model, loaded, checkpoint, task=cfg.get("task"))
        load_state_dict(model, loaded["state_dict"], strict=True)
    return model.eval()


def stored_metadata(checkpoint: str) -> dict[str, Any]:
    """What a run's ``epoch_*.pth`` or adapter file says of its adapter; empty where it says nothing.

    Raises:
        UserError: The file is missing, broken, or of a newer format.
    """
    if checkpoint.endswith(".safetensors"):
        return read_metadata(checkpoint)
    return CheckpointLoader.load_checkpoint(checkpoint, "cpu", logger="silent").get("peft") or {}
