"""RepAdapter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

SITES = {"block": ("qkv", "fc1"), "attn": ("qkv",)}


class GroupedAdapter(nn.Module):
    """``x + s (B Drop(A x + a) + b)``, B block-diagonal with ``groups`` blocks of shape ``(C / g, r / g)``."""

    def __init__(self, dim: int, width: int, groups: int, scale: float, drop: float) -> None:
        super().__init__()
        self.scale, self.groups = scale, groups
        self.down = nn.Linear(dim, width)
        self.drop = nn.Dropout(drop)
        self.weight = nn.Parameter(torch.empty(groups, dim // groups, width // groups))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A Xavier-uniform, all else zero."""
        nn.init.xavier_uniform_(self.down.weight)
        for param in (self.down.bias, self.weight, self.bias):
            nn.init.zeros_(param)

    def up(self) -> Tensor:
        """B as a dense matrix ``(C, r)``; at these widths one product is faster than one per group."""
        part, last = self.weight.shape[2], self.groups - 1
        # As block_diag, which not every exporter has.
        return torch.cat([F.pad(w, (part * i, part * (last - i))) for i, w in enumerate(self.weight)])

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        hidden = self.drop(self.down(x))
        return x.add(F.linear(hidden, self.up(), self.bias), alpha=self.scale)

    def affine(self) -> tuple[Tensor, Tensor]:
        """``I + s B A`` and ``s (B a + b)``."""
        up = self.up().double()
        matrix = self.scale * (up @ self.down.weight.double())
        matrix = matrix + torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        return matrix, self.scale * (up @ self.down.bias.double() + self.bias.double())


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class RepAdapter(Method):
    """``phi(x) = x + s (B Drop(A x + a) + b)`` on the inputs of qkv and fc1, linear, B grouped.

    In windowed attention it stands inside the windows, where it sees the padding too, as merging needs it.

    Args:
        bottleneck: Width r of the code.
        groups: Groups g of B; group j of the outputs reads group j of the code.
        scale: s; the authors take it from {0.1, 0.5, 1, 5, 10} per task.
        drop: Dropout on the code.
        where: ``block`` is before attention and MLP, ``attn`` before attention only.
    """

    bottleneck: int = 8
    groups: int = 2
    scale: float = 1.0
    drop: float = 0.1
    where: str = "block"

    category = "reparameter"
    paper = "Towards Efficient Visual Adaption via Structural Re-parameterization, 2302.08106"
    space = {"bottleneck": [4, 8, 16], "scale": [0.1, 0.5, 1.0, 5.0, 10.0], "drop": [0.0, 0.1]}
    mergeable = True
    identity_at_start = "rounding"  # rows of a weight that units share run apart behind it

    def check(self, host: Host) -> None:
        self.need_width("bottleneck", host)
        self.need_choice("where", SITES)
        if self.where == "attn":
            self.need_attention(host)
        self.need_divisor("groups", host)
        if self.bottleneck % self.groups:
            raise UserError(f"RepAdapter: groups={self.groups} does not divide bottleneck={self.bottleneck}.")

    def build(self, host: Host) -> None:
        for block in host.blocks:
            for site, _ in block.linears(*SITES[self.where]):
                module = GroupedAdapter(block.size(site)[0], self.bottleneck, self.groups, self.scale, self.drop)
                block.place(site, "before", module, site)

    def count(self, host: Host) -> int:
        r, g = self.bottleneck, self.groups
        widths = [b.size(site)[0] for b in host.blocks for site, _ in b.linears(*SITES[self.where])]
        return sum(c * r + r + c * r // g + c for c in widths)
