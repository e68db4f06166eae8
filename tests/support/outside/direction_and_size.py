"""A stranger's method: the direction of each row of a weight gets a low-rank update, its length a factor of its own."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms import Method
from vpeft.core.backbones import Flow, Host, Site
from vpeft.registry import PEFT_METHODS


class DirectionAndSize(nn.Module):
    """``(W - W0) x`` with ``W = diag(g ||W0|| / ||V||) V``, ``V = W0 + B A``; g starts at one and B at zero."""

    def __init__(self, site: Site, size: tuple[int, int], rank: int) -> None:
        super().__init__()
        self.site = (site,)  # in a tuple: what it reads of the base is not its own
        self.down = nn.Parameter(torch.empty(rank, size[0]))
        self.up = nn.Parameter(torch.empty(size[1], rank))
        self.factor = nn.Parameter(torch.empty(size[1]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        nn.init.zeros_(self.up)
        nn.init.ones_(self.factor)

    def change(self, dtype: torch.dtype) -> Tensor:
        base = self.site[0].module.weight.flatten(1).to(dtype)  # (out, in), a 1x1 convolution's too
        moved = base + self.up.to(dtype) @ self.down.to(dtype)
        length = moved.norm(dim=1).detach()
        return (self.factor.to(dtype) * base.norm(dim=1) / length)[:, None] * moved - base

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return F.linear(x, self.change(self.up.dtype))

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, None]:
        return self.change(torch.float64), None


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class DirectionDoRA(Method):
    """``W = diag(m) V / ||V||`` on all of qkv, proj, fc1 and fc2; the lengths in V are no path of the gradient.

    Args:
        rank: r of ``B A``; 4 is ours.
    """

    rank: int = 4

    category = "reparameter"
    paper = "After DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024, Equation 5"
    mergeable = True
    space = {"rank": [2, 4, 8]}

    def check(self, host: Host) -> None:
        self.need_width("rank", host)

    def sizes(self, host: Host) -> list[tuple]:
        names = ("qkv", "proj", "fc1", "fc2")
        return [(block, name, block.size(name)) for block in host.blocks for name in names if name in block.sites]

    def build(self, host: Host) -> None:
        for block, name, size in self.sizes(host):
            block.place(name, "parallel", DirectionAndSize(block.sites[name], size, self.rank), name)

    def count(self, host: Host) -> int:
        return sum(self.rank * sum(size) + size[1] for _, _, size in self.sizes(host))
