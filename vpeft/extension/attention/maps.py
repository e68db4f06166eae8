"""Maps of what a model looks at: attention and Grad-CAM of one sample, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.find import find_host
from vpeft.core.families.samples import label_of, prediction_of, shown
from vpeft.core.trained.inputs import Look
from vpeft.errors import UserError
from vpeft.extension.attention import KINDS
from vpeft.extension.attention.gradcam import gradcam
from vpeft.extension.attention.record import record_attention, rollout_map
from vpeft.registry import nearest

#: Kinds that are of one block's attention, and so exist head by head.
OF_HEADS = ("class", "token", "received")


@dataclass
class Map:
    """What a model looks at in one sample, and what it says.

    Attributes:
        image: RGB, uint8, ``(H, W, 3)``; of a clip ``(T, H, W, 3)``.
        values: ``(*grid)``, with heads ``(heads, *grid)``; of a video's clips the first.
        label: The sample's class, where it has one.
        predicted: The predicted class, and its probability, where the task is classification.
        added: Share of the attention that goes to keys and tokens which methods have added; None for other maps.
    """

    image: np.ndarray
    values: np.ndarray
    label: int | None = None
    predicted: tuple[int, float] | None = None
    added: float | None = None


def default_kinds(model: nn.Module) -> list[str]:
    """The kinds that say most of a model's host: by class token, windows, or neither."""
    adaptation = get_adaptation(model)
    host = find_host(model) if adaptation is None else adaptation.host
    # Rollout multiplies the attention of all blocks: each must be one of all tokens, and all of the same.
    staged = bool(host.downsamples) or len({block.stage for block in host.blocks}) > 1
    apart = any(block.kind.frames_apart for block in host.blocks)
    rollout = ["rollout"] if host.flat_stream and not staged and not apart else []
    if host.prefix and not host.pools_map:
        return ["class", *rollout]
    if staged:
        return ["received"] if host.reads_map else ["received", "gradcam"]
    return ["received", *rollout]


def look(
    model: nn.Module,
    sample: Look,
    kind: str,
    block: int = -1,
    heads: bool = False,
    place: Sequence[int] | None = None,
    target: int | None = None,
) -> Map:
    """One map of one sample.

    Args:
        model: A trained model in eval mode.
        sample: The sample.
        kind: One of :data:`~vpeft.extension.attention.KINDS`.
        block: The block whose attention, or for Grad-CAM whose input, is looked at; from the end where negative.
        heads: Head by head instead of their mean.
        place: For ``token``, its row and column on the block's map.
        target: For ``gradcam``, the class; the predicted one when None.

    Raises:
        UserError: Unknown kind, or the host has no attention of that kind.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of map {kind!r}: {nearest(kind, KINDS)}")
    if heads and kind not in OF_HEADS:
        raise UserError(f"{kind} is no attention of single heads: leave heads out, or take {', '.join(OF_HEADS)}.")
    if kind == "token" and place is None:
        raise UserError(
            "which token? Give its row and column on the map (--token 3 5), in video the frame before them."
        )
    data = model.data_preprocessor(sample.batch, False)
    added = None
    with torch.no_grad(), record_attention(model, None if kind == "rollout" else [block]) as kept:
        said = model(**data, mode="predict")[0]
    inputs = data["inputs"]
    if kind == "gradcam":
        values = gradcam(model, inputs, target, block)
        values = values / values.amax(dim=tuple(range(1, values.dim())), keepdim=True).clamp_min(1e-12)
    elif kind == "rollout":
        values = rollout_map(kept)
    else:
        (attention,) = kept.values()
        values = {
            "class": attention.of_class_token,
            "token": lambda: attention.of_token(place),
            "received": attention.received,
        }[kind]()
        values = values if heads else values.mean(1)
        added = attention.shares()["added"]
    return Map(
        image=shown(model, inputs[:, 0] if inputs.dim() == 6 else inputs)[0],
        values=values[0].float().cpu().numpy(),
        label=label_of(said),
        predicted=prediction_of(said),
        added=added,
    )
