"""From any checkpoint of a run to an adapter file."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine import Config

from vpeft.apis.adapters import save_adapter
from vpeft.core.trained.load import load_trained, stored_metadata
from vpeft.core.trained.record import run_record
from vpeft.errors import UserError


def export_adapter(cfg: Config, checkpoint: str, out: str) -> int:
    """Write the adapter file of a checkpoint: what the run had learned then, its head, and of which base.

    Args:
        cfg: The run's config.
        checkpoint: ``epoch_*.pth``, ``iter_*.pth`` or ``best_*.pth`` of the run.
        out: The adapter file, ``.safetensors``.

    Returns:
        Its bytes.

    Raises:
        UserError: Nothing is written: the name ends otherwise, or the checkpoint is missing, broken or of another
            config.
    """
    if Path(out).suffix != ".safetensors":
        raise UserError(f"{out}: an adapter file's name ends in .safetensors.")
    model = load_trained(cfg, checkpoint)
    said = stored_metadata(checkpoint)
    run = said.get("run") or run_record(cfg)
    return os.path.getsize(save_adapter(model, out, classes=said.get("classes"), task=said.get("task"), run=run))
