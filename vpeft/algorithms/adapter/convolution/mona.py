"""Mona."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.saving.source import made_again, mark_made
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.contract.method import STARTS, Method
from vpeft.registry import PEFT_METHODS

KERNELS = (3, 5, 7)


class MonaAdapter(nn.Module):
    """One Mona module on a stream ``(B, prefix + H*W, C)``; prefix tokens, off the map, skip the convolutions."""

    def __init__(self, dim: int, width: int, drop: float, init: str) -> None:
        super().__init__()
        self.init = init
        self.norm = nn.LayerNorm(dim)
        self.gamma1 = nn.Parameter(torch.empty(dim))
        self.gamma2 = nn.Parameter(torch.empty(dim))
        self.down = nn.Linear(dim, width)
        self.depthwise = nn.ModuleList(nn.Conv2d(width, width, k, padding=k // 2, groups=width) for k in KERNELS)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.drop = nn.Dropout(drop)
        self.up = nn.Linear(width, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """gamma1 1e-6, gamma2 1; linears truncated normal of std 0.02 with zero bias (W_up zero with ``identity``); the
        rest torch's default.
        """
        for module in (self.norm, *self.depthwise, self.pointwise):
            module.reset_parameters()
        nn.init.constant_(self.gamma1, 1e-6)
        nn.init.ones_(self.gamma2)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        if self.init == "identity":
            nn.init.zeros_(self.up.weight)

    def filter(self, x: Tensor) -> Tensor:
        """``e = d + (DW3 + DW5 + DW7)(d) / 3``, ``e + PW(e)`` on a map ``(B, width, H, W)``.

        The three depthwise kernels add up to one of the largest size, at a third of the cost.
        """
        if in_program():  # not every exporter takes a kernel that is worked out
            x = x + torch.stack([conv(x) for conv in self.depthwise]).mean(0)
            return x + self.pointwise(x)
        size = KERNELS[-1]
        kernels = [F.pad(conv.weight, [(size - k) // 2] * 4) for conv, k in zip(self.depthwise, KERNELS, strict=True)]
        kernel = torch.stack(kernels).mean(0)
        bias = torch.stack([conv.bias for conv in self.depthwise]).mean(0)
        x = x + F.conv2d(x, kernel, bias, padding=size // 2, groups=x.shape[1])
        return x + self.pointwise(x)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        scaled = mark_made(self.scaled(x), self.scaled, x)
        with made_again(scaled):
            hidden = self.down(scaled)
        prefix, spatial = flow.split(hidden)
        hidden = flow.join(prefix, self.filter(spatial))
        code = mark_made(F.gelu(hidden), F.gelu, hidden)
        with made_again(code):
            return x + self.up(self.drop(code))

    def scaled(self, x: Tensor) -> Tensor:
        """``g1 LN(x) + g2 x``; of all that is as wide as x, the gradients keep x alone."""
        normed = mark_made(self.norm(x), self.norm, x)
        with made_again(normed):
            return torch.addcmul(x * self.gamma2, normed, self.gamma1)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class Mona(Method):
    """After each residual addition: ``y = g1 LN(x) + g2 x``, ``d = W_dn y + b``, ``e = d + (DW3 + DW5 + DW7)(d) / 3``,
    ``e <- e + PW(e)``, ``x <- x + W_up Drop(GELU(e)) + b'``.

    The placement is that of the authors' code; the paper draws the module before the residual. On a host with a class
    token, that token skips the convolutions (our choice: it has no place on the map).

    Args:
        bottleneck: Width of the filtered code, the same in all stages.
        drop: Dropout on the code.
        init: ``official`` does not start as the frozen host; ``identity`` does, with W_up zero.
    """

    bottleneck: int = 64
    drop: float = 0.1
    init: str = "official"

    category = "adapter"
    paper = "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks, CVPR 2025"
    space = {"bottleneck": [8, 16, 32, 64], "drop": [0.0, 0.1]}
    identity_at_start = False

    def check(self, host: Host) -> None:
        self.need_choice("init", STARTS)

    def build(self, host: Host) -> None:
        for block in host.blocks:
            for branch in block.units:
                module = MonaAdapter(block.dim, self.bottleneck, self.drop, self.init)
                block.place(f"{branch}_residual", "after", module, branch)

    def count(self, host: Host) -> int:
        d = self.bottleneck
        # down and up, LN and both gammas, three depthwise convolutions, the pointwise one
        return sum(
            len(b.units) * (2 * b.dim * d + d + b.dim + 4 * b.dim + (9 + 25 + 49 + 3) * d + d * d + d)
            for b in host.blocks
        )
