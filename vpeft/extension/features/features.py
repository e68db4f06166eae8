"""What the head of a trained run reads of its test samples: the class token, or the mean of the map."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from torch import Tensor

from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.backbones.host import Host
from vpeft.core.families.samples import label_of, prediction_of, shown
from vpeft.core.trained.run import Run
from vpeft.errors import UserError
from vpeft.files import write_atomically

#: Changes whenever the same run would give other features.
VERSION = "features-1"


@dataclass
class Features:
    """Features of test samples.

    Attributes:
        values: ``(N, C)``, float32.
        labels: ``(N,)``, int64.
        predicted: ``(N,)``, int64: the class that the run predicts.
        indices: ``(N,)``, int64: places in the test set.
        images: ``(N, h, w, 3)``, uint8: what the model has seen, of clips the middle frame.
    """

    values: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    indices: np.ndarray
    images: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of these samples that the run classifies correctly."""
        return float((self.labels == self.predicted).mean())


def run_features(run: Run, indices: Sequence[int] | None = None, cache: bool = True) -> Features:
    """Features of a run's test samples.

    Args:
        run: The run.
        indices: Places in the test set; all of them when None.
        cache: Keep them as ``features/*.npz`` in the run's folder, by the content of the run, and read them there.

    Raises:
        UserError: The test samples have no classes.
    """
    indices = np.arange(len(run.dataset())) if indices is None else np.asarray(indices, np.int64)
    key = hashlib.sha256(f"{VERSION}{run.digest()}".encode() + indices.tobytes()).hexdigest()[:16]
    path = run.folder / "features" / f"{key}.npz"
    names = [field.name for field in fields(Features)]
    if cache and path.is_file():
        try:
            with np.load(path, allow_pickle=False) as file:
                return Features(**{name: file[name] for name in names})
        except Exception:  # numpy's readers raise whatever a broken file makes them stumble over
            pass  # made anew
    features = _compute(run, indices)
    if cache:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: getattr(features, name) for name in names})
        write_atomically(path, buffer.getvalue())
    return features


def _compute(run: Run, indices: np.ndarray) -> Features:
    model = run.model(get_device())
    host = find_adaptation(model).host
    rows: dict[str, list[Any]] = {"values": [], "labels": [], "predicted": [], "images": []}
    outputs: list[Tensor] = []
    hook = model.backbone.register_forward_hook(lambda module, args, output: outputs.append(pooled(host, output)))
    with torch.no_grad():
        for batch in run.batches(indices):
            outputs.clear()
            data = model.data_preprocessor(batch, False)
            samples = model(**data, mode="predict")
            for sample in samples:
                label, predicted = label_of(sample), prediction_of(sample)
                if label is None or predicted is None:
                    raise UserError(
                        f"{run.folder}: its test samples have no classes ({type(sample).__name__}): features are "
                        "compared by class."
                    )
                rows["labels"].append(label)
                rows["predicted"].append(predicted[0])
            # Clips of one sample stand together.
            values = torch.cat(outputs).unflatten(0, (len(samples), -1)).mean(1)
            rows["values"].append(values.float().cpu().numpy())
            inputs = data["inputs"]
            if inputs.dim() == 6:  # (B, clips, 3, T, H, W)
                inputs = inputs[:, 0]
            images = shown(model, inputs)
            rows["images"].append(images if images.ndim == 4 else images[:, images.shape[1] // 2])
    hook.remove()
    return Features(
        values=np.concatenate(rows["values"]),
        labels=np.asarray(rows["labels"], np.int64),
        predicted=np.asarray(rows["predicted"], np.int64),
        indices=indices,
        images=np.concatenate(rows["images"]),
    )


def pooled(host: Host, output: Any) -> Tensor:
    """A backbone's last output as one vector per image, ``(B, C)``: the class token, or the mean of the map.

    Args:
        host: The backbone's host.
        output: What it returned: vectors, streams ``(B, prefix + N, C)`` or maps, alone or as a tuple.
    """
    while isinstance(output, (tuple, list)):
        output = output[-1]
    if output.dim() == 3:
        return output[:, 0] if host.prefix and not host.pools_map else output[:, host.prefix :].mean(1)
    if output.dim() > 3:
        # Channels first, as in all but timm's maps.
        first = not host.blocks or output.shape[1] == host.blocks[-1].dim
        return output.flatten(2).mean(2) if first else output.flatten(1, -2).mean(1)
    return output
