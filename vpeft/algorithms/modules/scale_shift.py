"""A scale and shift per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vpeft.core.backbones.sites.flow import Flow


class ScaleShift(nn.Module):
    """``gamma * y + beta`` per channel.

    Args:
        dim: Channels.
        std: Standard deviation of the random start around ``gamma = 1``, ``beta = 0``; 0 starts as the identity.
    """

    def __init__(self, dim: int, std: float) -> None:
        super().__init__()
        self.std = std
        self.gamma = nn.Parameter(torch.empty(dim))
        self.beta = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw ``gamma`` around 1 and ``beta`` around 0."""
        nn.init.normal_(self.gamma, mean=1.0, std=self.std)
        nn.init.normal_(self.beta, std=self.std)

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        # Under autocast the operands differ in type, and addcmul would refuse.
        return torch.addcmul(self.beta.to(y.dtype), y, self.gamma.to(y.dtype))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Diagonal ``gamma`` and shift ``beta``."""
        return self.gamma, self.beta
