"""The loss of DyT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vpeft.registry import MODELS


@MODELS.register_module()
class DyTLoss(nn.Module):
    """``2 (mean m - target)^2 + KL(dynamic || complete)``, the complete model's scores detached.

    Dynamic Tuning, NeurIPS 2024. The cross entropies of both models are the head's own.

    Args:
        target: Share of the tokens that is to pass the MLPs.
        rate_weight: Weight of the first term.
    """

    def __init__(self, target: float = 0.5, rate_weight: float = 2.0) -> None:
        super().__init__()
        self.target, self.rate_weight = target, rate_weight

    def forward(self, masks: list[Tensor], dynamic: Tensor, complete: Tensor) -> dict[str, Tensor]:
        """Losses from the masks of all blocks ``(B, n)`` and both models' scores ``(B, classes)``."""
        rate = torch.stack([mask.mean() for mask in masks]).mean()
        ours, theirs = dynamic.log_softmax(-1), complete.detach().log_softmax(-1)
        divergence = (ours.exp() * (ours - theirs)).sum(-1).mean()
        return {"loss_rate": self.rate_weight * (rate - self.target) ** 2, "loss_divergence": divergence}
