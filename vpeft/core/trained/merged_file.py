"""Merged files: a plain checkpoint that says of which run it is."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vpeft.core.adaptation.storing.format import check_whole, content_sum, tensor_table
from vpeft.core.models.build import build_model
from vpeft.core.trained.record import check_record
from vpeft.errors import UserError
from vpeft.files import write_atomically

FORMAT = "vpeft-merged-1"
#: Where it stands: in the metadata of a safetensors file, beside the state dict of a torch file.
KEY = "vpeft_merged"


def write_merged(
    state: Mapping[str, Tensor], out: Path, run: Mapping[str, Any] | None, classes: Sequence[str] | None
) -> Path:
    """Write a merged model's state dict, atomically.

    Args:
        state: The plain model's tensors.
        out: The file, ``.safetensors`` or ``.pth``.
        run: The record of the plain config (:func:`vpeft.core.trained.record.run_record`), None where there is none.
        classes: Names of the classes, None where they are not known.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    said = {"format": FORMAT, "run": run, "classes": None if classes is None else list(classes)}
    said = json.loads(json.dumps({**said, "tensors": tensor_table(state)}))
    said["sha256"] = content_sum([said, state])
    if out.suffix == ".safetensors":
        return write_atomically(out, save(state, {"format": "pt", KEY: json.dumps(said)}))
    buffer = io.BytesIO()
    meta = {"dataset_meta": {"classes": tuple(classes)}} if classes else {}
    torch.save({"state_dict": state, "meta": meta, KEY: said}, buffer)
    return write_atomically(out, buffer.getvalue())


def merged_metadata(file: Path) -> dict[str, Any] | None:
    """What a merged file says; None for a file of another kind.

    Raises:
        UserError: It says nothing that could be understood.
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                text = (opened.metadata() or {}).get(KEY)
            said = None if text is None else json.loads(text)
        except Exception:  # safetensors raises many kinds; whoever reads it as an adapter says what is wrong
            return None
    else:
        said = CheckpointLoader.load_checkpoint(str(file), "cpu", logger="silent").get(KEY)
    if said is None:
        return None
    if not isinstance(said, dict) or said.get("format") != FORMAT or not {"tensors", "sha256"} <= said.keys():
        raise UserError(f"{file} describes no merged model that this vpeft can read: merge it again.")
    if said.get("run") is None:
        raise UserError(f"{file} does not say of which run it is: load it by the config of the plain model.")
    check_record(said["run"], str(file))
    return said


def load_merged(cfg: Config, file: Path) -> nn.Module:
    """The plain model of a merged file, in eval mode.

    Raises:
        UserError: The file is not as it was written, or does not fit.
    """
    said = merged_metadata(file)
    if file.suffix == ".safetensors":
        state = load_file(file)
    else:
        state = CheckpointLoader.load_checkpoint(str(file), "cpu", logger="silent")["state_dict"]
    check_whole(said, state, state, str(file))
    model = build_model(cfg)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(f"{file} does not fit its own config: merge it again.") from error
    return model.eval()
