"""From any checkpoint of a run to an adapter file."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine import Config
from torch import nn

from vpeft.apis.adapters import save_adapter
from vpeft.apis.export.merged import backbone_outputs, largest_difference, random_images
from vpeft.core.adaptation.find import backbone_prefix, find_adaptations
from vpeft.core.adaptation.peft_backbone import peft_places
from vpeft.core.adaptation.storing.folded import folded_methods
from vpeft.core.trained.load import load_trained, stored_metadata
from vpeft.core.trained.record import run_record
from vpeft.errors import UserError

#: Largest difference of outputs in float64, relative to the largest output: the rounding of what is written.
FOLDED_TOLERANCE = 1e-4


def export_adapter(cfg: Config, checkpoint: str, out: str, folded: bool = False) -> int:
    """Write the adapter file of a checkpoint: what the run had learned then, its head, and of which base.

    Args:
        cfg: The run's config.
        checkpoint: ``epoch_*.pth``, ``iter_*.pth`` or ``best_*.pth`` of the run.
        out: The adapter file, ``.safetensors``.
        folded: Write the adapter of plainer methods that answer the same, and keep it where it does on random input.

    Returns:
        Its bytes.

    Raises:
        UserError: Nothing is written: the name ends otherwise, or the checkpoint is missing, broken or of another
            config; or no method folds into a plainer one.
    """
    if Path(out).suffix != ".safetensors":
        raise UserError(f"{out}: an adapter file's name ends in .safetensors.")
    model = load_trained(cfg, checkpoint)
    said = stored_metadata(checkpoint)
    if folded:
        return _export_folded(cfg, model, out, said)
    run = said.get("run") or run_record(cfg)
    return os.path.getsize(save_adapter(model, out, classes=said.get("classes"), task=said.get("task"), run=run))


def _export_folded(cfg: Config, model: nn.Module, out: str, said: Mapping[str, Any]) -> int:
    """Write the adapter of plainer methods, of a config that has these, and hold it against the run."""
    plainer = copy.deepcopy(cfg)
    for settings, adaptation in zip(peft_places(plainer).values(), find_adaptations(model).values(), strict=True):
        settings["method"] = [method.config() for method in folded_methods(adaptation)]
    names = {key: said.get(key) for key in ("classes", "task")}
    file = save_adapter(model, out, **names, run=run_record(plainer), folded=True)
    place, images = backbone_prefix(model).rstrip("."), random_images(model, cfg)
    outputs = [backbone_outputs(one.double(), place, images) for one in (model, load_trained(plainer, out))]
    if not (found := largest_difference(*outputs)) <= FOLDED_TOLERANCE:
        file.unlink()
        raise UserError(f"the folded adapter's output differs by {found:.1e}, relative to the largest: not written.")
    return os.path.getsize(file)
