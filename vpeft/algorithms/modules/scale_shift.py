"""A scale and shift per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vpeft.algorithms.modules.kept import scale, scale_of_norm
from vpeft.core.backbones.sites.flow import Flow


class ScaleShift(nn.Module):
    """``gamma * y + beta`` per channel.

    Behind a norm, the norm's input alone is kept.

    Args:
        dim: Channels.
        std: Standard deviation of the random start around ``gamma = 1``, ``beta = 0``; 0 starts as the identity.
        output_is_kept: What follows keeps the result (:func:`.kept.keeps_output`).
    """

    def __init__(self, dim: int, std: float, output_is_kept: bool = False) -> None:
        super().__init__()
        self.std, self.output_is_kept = std, output_is_kept
        self.gamma = nn.Parameter(torch.empty(dim))
        self.beta = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw ``gamma`` around 1 and ``beta`` around 0."""
        nn.init.normal_(self.gamma, mean=1.0, std=self.std)
        nn.init.normal_(self.beta, std=self.std)

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        return scale(y, self.gamma, self.beta, self.output_is_kept)

    def after_operation(self, operation: nn.Module, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """:meth:`forward` of the output ``y`` of an operation on ``x``."""
        z = scale_of_norm(y, operation, x, self.gamma, self.beta)
        return self.forward(y, flow) if z is None else z

    def affine(self) -> tuple[Tensor, Tensor]:
        """Diagonal ``gamma`` and shift ``beta``."""
        return self.gamma, self.beta
