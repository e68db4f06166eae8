"""The bottleneck of adapters."""

from __future__ import annotations

import math

from torch import Tensor, nn

INITS = ("identity", "houlsby", "xavier")
ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class Bottleneck(nn.Module):
    """``W_up Drop(act(W_dn x + b_dn)) + b_up`` with ``W_dn`` (width, dim) and ``W_up`` (dim, width).

    Args:
        dim: Width of the stream.
        width: Width of the hidden code.
        act: ``gelu`` or ``relu``.
        drop: Dropout on the hidden code.
        init: ``identity`` (W_dn Kaiming-uniform with a = sqrt 5, all else zero), ``houlsby`` (both weights truncated
            normal of std 1e-3, biases zero) or ``xavier`` (both Xavier-uniform, biases normal of std 1e-6).
        bias: Whether there are biases.
    """

    def __init__(
        self, dim: int, width: int, act: str = "gelu", drop: float = 0.0, init: str = "identity", bias: bool = True
    ) -> None:
        super().__init__()
        self.init = init
        self.down = nn.Linear(dim, width, bias=bias)
        self.act = ACTIVATIONS[act]()
        self.drop = nn.Dropout(drop)
        self.up = nn.Linear(width, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Give both linears the start that ``init`` names."""
        weights = (self.down.weight, self.up.weight)
        biases = [linear.bias for linear in (self.down, self.up) if linear.bias is not None]
        for bias in biases:
            nn.init.zeros_(bias)
        if self.init == "identity":
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up.weight)
        elif self.init == "houlsby":
            for weight in weights:
                nn.init.trunc_normal_(weight, std=1e-3, a=-2e-3, b=2e-3)
        else:
            for weight in weights:
                nn.init.xavier_uniform_(weight)
            for bias in biases:
                nn.init.normal_(bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.down(x))
        if self.drop.p:
            hidden = self.drop(hidden)
        return self.up(hidden)

    @staticmethod
    def count(dim: int, width: int) -> int:
        """``width (2 dim + 1) + dim``."""
        return width * (2 * dim + 1) + dim
