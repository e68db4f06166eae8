"""The supervised contrastive loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def supervised_contrastive_loss(features: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """``- mean_i mean_{p in P(i)} log(exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t))``.

    Supervised Contrastive Learning, NeurIPS 2020, Eq. 2 (L_out). P(i) are the other views of the same class.

    Args:
        features: ``(B, views, D)``, of unit length.
        labels: ``(B,)``.
        temperature: t.
    """
    batch, views, _ = features.shape
    z = features.transpose(0, 1).flatten(0, 1)
    labels = labels.to(z.device).repeat(views)
    scores = z @ z.t() / temperature
    others = ~torch.eye(batch * views, dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels) & others
    log_prob = scores - scores.masked_fill(~others, float("-inf")).logsumexp(1, keepdim=True)
    return -((log_prob * positive).sum(1) / positive.sum(1).clamp(min=1)).mean()


def two_views(images: Tensor, generator: torch.Generator, least: float = 0.2) -> tuple[Tensor, Tensor]:
    """Two random views of every image: a crop of ``least`` to all of its area, scaled back, flipped or not.

    Args:
        images: ``(B, ..., H, W)``; all frames of a clip have the same crop.
        generator: Where chance comes from, on the CPU.
        least: Smallest part of the area.
    """
    height, width = images.shape[-2:]

    def view(image: Tensor) -> Tensor:
        side, top, left, flip = torch.rand(4, generator=generator).tolist()
        side = (least + (1 - least) * side) ** 0.5
        h, w = max(1, round(side * height)), max(1, round(side * width))
        y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
        crop = image[..., y : y + h, x : x + w].flatten(0, -3)[None]
        crop = F.interpolate(crop, (height, width), mode="bilinear").reshape(image.shape)
        return crop.flip(-1) if flip < 0.5 else crop

    return tuple(torch.stack([view(image) for image in images]) for _ in range(2))
