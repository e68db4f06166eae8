"""Stored predictions: the class scores of one tested run, sample by sample, in one safetensors file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from vpeft.core.adaptation.storing.format import content_sum
from vpeft.core.trained.folder import LOGITS
from vpeft.errors import UserError
from vpeft.files import schema_fault, write_atomically

FORMAT = "vpeft-logits-2"
_SCHEMA = {
    "required": ["samples", "data", "name", "kind"],
    "properties": {
        "samples": {"type": "array", "items": {"type": "string"}},
        "data": {"type": "object"},
        "name": {"type": "string"},
        "kind": {"enum": ["logits", "log_probabilities"]},
    },
}


@dataclass
class Logits:
    """Class scores of a test set.

    Attributes:
        logits: ``(N, classes)``, float32: what the head gave, or log-probabilities where only those could be had.
        labels: ``(N,)``, int64.
        samples: What identifies each sample: its file, or its place in the split.
        data: Which data it is: suite, task, split, shift, variant.
        name: What it is called in tables and pictures.
        kind: ``logits`` or ``log_probabilities``.
    """

    logits: Tensor
    labels: Tensor
    samples: list[str]
    data: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    kind: str = "logits"

    @property
    def predicted(self) -> Tensor:
        """The class with the largest score, ``(N,)``."""
        return self.logits.argmax(1)

    @property
    def correct(self) -> Tensor:
        """Whether that is the label, ``(N,)``."""
        return self.predicted == self.labels

    @property
    def confidence(self) -> Tensor:
        """Probability of the predicted class, ``(N,)``, float64."""
        return self.logits.double().softmax(1).amax(1)

    @property
    def accuracy(self) -> float:
        """Top-1 in percent."""
        return 100 * float(self.correct.double().mean())


def write_logits(predictions: Logits, path: str | os.PathLike[str]) -> Path:
    """Write the file, atomically."""
    metadata = {
        "format": FORMAT,
        "samples": predictions.samples,
        "data": predictions.data,
        "name": predictions.name,
        "kind": predictions.kind,
    }
    tensors = {"logits": predictions.logits.float().contiguous(), "labels": predictions.labels.long().contiguous()}
    metadata["sha256"] = _sum(json.loads(json.dumps(metadata)), tensors)
    return write_atomically(path, save(tensors, {"vpeft": json.dumps(metadata)}))


def read_logits(path: str | os.PathLike[str]) -> Logits:
    """Read the file, or that of a run's folder.

    Raises:
        UserError: There is none, or it is broken or of something else.
    """
    path = Path(path)
    path = path / LOGITS if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: this run has no stored logits. Test it again with "
            "`tools/test.py CONFIG CHECKPOINT --dump-logits`."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("vpeft", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    except Exception as error:  # safetensors raises many kinds
        reason = ascii(str(error))[1:160]
        raise UserError(f"{path} is truncated or no safetensors file ({reason}): test the run again.") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(f"{path} holds no stored logits: it was written by something else.")
    if fault := schema_fault(metadata, _SCHEMA):
        raise UserError(f"{path} describes no stored logits ({ascii(fault.message)[1:120]}): test the run again.")
    logits, labels, samples = tensors.get("logits"), tensors.get("labels"), metadata["samples"]
    if logits is None or labels is None or logits.dim() != 2 or labels.dim() != 1 or labels.dtype != torch.int64:
        raise UserError(f"{path} holds no scores (N, classes) with labels (N,): test the run again.")
    if not len(logits) == len(labels) == len(samples):
        raise UserError(f"{path}: {len(logits)} scores, {len(labels)} labels, {len(samples)} samples: test it again.")
    if not logits.is_floating_point() or not torch.isfinite(logits).all():
        raise UserError(f"{path} holds NaN or infinite scores, or none of floating point: the run has diverged.")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise UserError(f"{path} has labels outside of its {logits.shape[1]} classes: test the run again.")
    if metadata.get("sha256") != _sum(metadata, tensors):
        raise UserError(f"{path} was changed: its SHA-256 is another than when it was written: test the run again.")
    return Logits(logits, labels, samples, metadata["data"], metadata["name"], metadata["kind"])


def _sum(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over all that the file says."""
    return content_sum([{key: value for key, value in metadata.items() if key != "sha256"}, tensors])
