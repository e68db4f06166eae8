"""Convpass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS

WHERE = {"block": ("attn", "mlp"), "attn": ("attn",)}
CONVS = ("identity", "xavier")


def quick_gelu(x: Tensor) -> Tensor:
    """``x sigmoid(1.702 x)``."""
    return x * torch.sigmoid(1.702 * x)


class ConvBypass(nn.Module):
    """``s (W_up Drop(q(Conv3x3(q(W_dn z + b)))) + b')``; a token off the map is a map of one pixel of its own."""

    def __init__(self, dim: int, width: int, scale: float, drop: float, conv: str) -> None:
        super().__init__()
        self.scale, self.start = scale, conv
        self.down = nn.Linear(dim, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.drop = nn.Dropout(drop)
        self.up = nn.Linear(width, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W_dn Xavier-uniform, the convolution the identity or Xavier-uniform, all else zero."""
        nn.init.xavier_uniform_(self.down.weight)
        if self.start == "identity":
            nn.init.zeros_(self.conv.weight)
            with torch.no_grad():
                self.conv.weight[:, :, 1, 1].fill_diagonal_(1.0)
        else:
            nn.init.xavier_uniform_(self.conv.weight)
        for param in (self.up.weight, self.down.bias, self.conv.bias, self.up.bias):
            nn.init.zeros_(param)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        prefix, spatial = flow.split(quick_gelu(self.down(x)))
        # Around a single pixel there is only padding: the centre of the kernel is all that acts.
        prefix = nn.functional.linear(prefix, self.conv.weight[:, :, 1, 1], self.conv.bias)
        hidden = quick_gelu(flow.join(prefix, self.conv(spatial)))
        return self.up(self.drop(hidden)) * self.scale


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class Convpass(Method):
    """``x <- x + DP(MHSA(n1)) + s DP(B_1(n1))``, ``x <- x + DP(MLP(n2)) + s DP(B_2(n2))`` with n the outputs of
    the norms, ``B(z) = W_up Drop(q(Conv3x3(q(W_dn z + b)))) + b'`` and ``q(z) = z sigmoid(1.702 z)``. A class token
    passes the convolution as a map of one pixel.

    Args:
        bottleneck: Width r of the code.
        scale: s; per task from {0.01, 0.1, 1, 10, 100} in the authors' configs.
        drop: Dropout before W_up.
        conv: Start of the convolution, ``identity`` or ``xavier``; per task in the authors' configs.
        where: ``block``, or ``attn`` for the bypass of attention only.
    """

    bottleneck: int = 8
    scale: float = 1.0
    drop: float = 0.1
    conv: str = "identity"
    where: str = "block"

    category = "adapter"
    paper = "Convolutional Bypasses Are Better Vision Transformer Adapters, 2207.07039"
    space = {"bottleneck": [4, 8, 16], "scale": [0.1, 0.5, 1.0, 5.0, 10.0], "drop": [0.0, 0.1]}

    def check(self, host: Host) -> None:
        self.need_width("bottleneck", host)
        self.need_choice("conv", CONVS)
        self.need_choice("where", WHERE)
        if self.where == "attn":
            self.need_attention(host)

    def branches(self, block: Block) -> list[str]:
        """The branches of a block that are passed by."""
        return [branch for branch in WHERE[self.where] if branch in block.units]

    def build(self, host: Host) -> None:
        for block in host.blocks:
            for branch in self.branches(block):
                module = ConvBypass(block.dim, self.bottleneck, self.scale, self.drop, self.conv)
                block.place(f"{branch}_branch", "beside", module, branch)

    def count(self, host: Host) -> int:
        r = self.bottleneck
        return sum(len(self.branches(b)) * (2 * b.dim * r + r + b.dim + 9 * r * r + r) for b in host.blocks)
