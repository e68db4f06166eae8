"""ARC: adapter re-composing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import STARTS, Method
from vpeft.registry import PEFT_METHODS

WHERE = {"block": ("qkv", "fc1"), "attn": ("qkv",)}


class SharedProjection(nn.Module):
    """E (C, r) of all blocks of one width and place."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform."""
        nn.init.xavier_uniform_(self.weight)


class Recomposed(nn.Module):
    """``h + Drop(h (E * lambda)) E^T + beta`` with a shared E.

    Args:
        shared: E; referred to, not owned.
        drop: Dropout on the code.
        zero: lambda starts at zero, else Xavier-uniform as a row ``(1, r)``.
    """

    def __init__(self, shared: SharedProjection, drop: float, zero: bool) -> None:
        super().__init__()
        self.shared, self.zero = (shared,), zero  # in a tuple, so that torch does not register it a second time
        dim, width = shared.weight.shape
        self.scale = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(dim))
        self.drop = nn.Dropout(drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """lambda as ``zero`` says, beta zero."""
        nn.init.zeros_(self.bias)
        if self.zero:
            nn.init.zeros_(self.scale)
        else:
            nn.init.xavier_uniform_(self.scale.data.unsqueeze(0))

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        projection = self.shared[0].weight
        code = self.drop(x @ (projection * self.scale))
        return x + torch.nn.functional.linear(code, projection, self.bias)

    def affine(self) -> tuple[Tensor, Tensor]:
        """``I + E diag(lambda) E^T`` and beta."""
        projection = self.shared[0].weight.double()
        matrix = projection * self.scale.double() @ projection.t()
        return matrix + matrix.new_ones(len(matrix)).diag(), self.bias


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class ARC(Method):
    """``h <- h + Drop(h (E * lambda_i)) E^T + beta_i`` on the inputs of qkv and fc1; E (C, r) is shared by all blocks,
    one for attention and one for the MLP (on a host with stages one pair per stage); lambda_i (r) and beta_i (C) are
    each block's own. Linear. In windowed attention it stands inside the windows, where it sees the padding too.

    The authors' Swin (ARC_swin_b.py) has the MLP's module on the residual stream in front of LN2 instead, identity path
    included, where it cannot be merged into fc1, and drops half of the code; here it is the equation on every host.

    Args:
        bottleneck: Width r of the code.
        drop: Dropout on the code.
        where: ``block``, or ``attn`` for attention only.
        init: ``official`` starts the MLP's lambda Xavier-uniform, so not as the frozen host; ``identity`` at zero.
    """

    bottleneck: int = 50
    drop: float = 0.1
    where: str = "block"
    init: str = "official"

    category = "adapter"
    paper = "Efficient Adaptation of Large Vision Transformer via Adapter Re-Composing, NeurIPS 2023"
    space = {"bottleneck": [10, 25, 50], "drop": [0.0, 0.1]}
    mergeable = True
    identity_at_start = False

    def check(self, host: Host) -> None:
        self.need_width("bottleneck", host)
        self.need_choice("where", WHERE)
        if self.where == "attn":
            self.need_attention(host)
        self.need_choice("init", STARTS)

    def build(self, host: Host) -> None:
        shared: dict[str, SharedProjection] = {}
        for block in host.blocks:
            for site, _ in block.linears(*WHERE[self.where]):
                name, width = self.shares(block, site)
                if name not in shared:
                    shared[name] = SharedProjection(width, self.bottleneck)
                    host.keep(shared[name], name)
                zero = site == "qkv" or self.init == "identity"
                block.place(site, "before", Recomposed(shared[name], self.drop, zero), site)

    @staticmethod
    def shares(block: Block, site: str) -> tuple[str, int]:
        """Name and width of the E that a block shares; one that enters a stage in another width has its own."""
        width = block.size(site)[0]
        return f"{site}{block.stage}{'' if width == block.dim else '_in'}", width

    def count(self, host: Host) -> int:
        r = self.bottleneck
        places = [self.shares(b, site) for b in host.blocks for site, _ in b.linears(*WHERE[self.where])]
        return sum(c * r for c in dict(places).values()) + sum(r + c for _, c in places)
