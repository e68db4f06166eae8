"""LoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

#: Targets, the site that each belongs to, and which third of that site's rows it is (None: all rows).
TARGETS = {
    "q": ("qkv", 0),
    "k": ("qkv", 1),
    "v": ("qkv", 2),
    "qkv": ("qkv", None),
    "proj": ("proj", None),
    "fc1": ("fc1", None),
    "fc2": ("fc2", None),
}


class LowRank(nn.Module):
    """Low-rank updates of some row ranges of one linear, computed as one pair of matrix products.

    Args:
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) that each target updates.
        rank: r of each target.
        scale: alpha / r.
        drop: Dropout on the input of A.
    """

    def __init__(
        self, size: tuple[int, int], rows: dict[str, tuple[int, int]], rank: int, scale: float, drop: float
    ) -> None:
        super().__init__()
        inputs, self.out_features = size
        self.rows, self.rank, self.scale = rows, rank, scale
        self.drop = nn.Dropout(drop)
        self.down = nn.ParameterDict({t: torch.empty(rank, inputs) for t in rows})
        self.up = nn.ParameterDict({t: torch.empty(last - first, rank) for t, (first, last) in rows.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A Kaiming-uniform with a = sqrt 5, B zero."""
        for target in self.rows:
            nn.init.kaiming_uniform_(self.down[target], a=math.sqrt(5))
            nn.init.zeros_(self.up[target])

    def factors(self) -> tuple[Tensor, Tensor]:
        """A of all targets ``(targets * r, in)``, and B of all rows ``(out, targets * r)``, zero where not targeted."""
        if list(self.rows.values()) == [(0, self.out_features)]:
            (target,) = self.rows
            return self.down[target], self.up[target]
        down = torch.cat([self.down[t] for t in self.rows])
        if in_program():
            pads = ((i * self.rank, first, last) for i, (first, last) in enumerate(self.rows.values()))
            up = sum(
                F.pad(self.up[t], (left, len(down) - left - self.rank, first, self.out_features - last))
                for t, (left, first, last) in zip(self.rows, pads, strict=True)
            )
            return down, up
        up = down.new_zeros(self.out_features, down.shape[0])
        for i, (target, (first, last)) in enumerate(self.rows.items()):
            up[first:last, i * self.rank : (i + 1) * self.rank] = self.up[target]
        return down, up

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        down, up = self.factors()
        return F.linear(F.linear(self.dropped(x), down), up) * self.scale

    def dropped(self, x: Tensor) -> Tensor:
        return self.drop(x) if self.drop.p else x

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y + scale * B A x``, written into ``y``, which the linear has just made and nobody else reads."""
        down, up = self.factors()
        code = F.linear(self.dropped(x), down).to(y.dtype).flatten(0, -2)
        up = up.to(y.dtype).t()
        if in_program():  # a tracer sees what is returned, not what is written into a view
            return torch.addmm(y.flatten(0, -2), code, up, alpha=self.scale).view(y.shape)
        y = y.contiguous()  # a copy only where the linear gave a transposed view
        y.view(-1, self.out_features).addmm_(code, up, alpha=self.scale)
        return y

    def affine(self) -> tuple[Tensor, None]:
        """The dense update ``scale * B A``, and no shift."""
        down, up = self.factors()
        return self.scale * (up.double() @ down.double()), None


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class LoRA(Method):
    """``W <- W0 + (alpha / r) B A``, A (r, in), B (out, r); on a fused qkv each of q, k, v has a pair of its own.

    Args:
        rank: r.
        alpha: Numerator of the scale; None means r, a scale of 1.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint pair.
        drop: Dropout on the input of A.
    """

    rank: int = 8
    alpha: float | None = None
    targets: tuple[str, ...] = ("q", "v")
    drop: float = 0.0

    category = "reparameter"
    paper = "LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, Section 4.1"
    space = {"rank": [2, 4, 8, 16], "alpha": [4.0, 8.0, 16.0, 32.0], "drop": [0.0, 0.1]}
    mergeable = True

    def check(self, host: Host) -> None:
        self.need_width("rank", host)
        self.need_choice("targets", TARGETS)

    def build(self, host: Host) -> None:
        scale = (self.rank if self.alpha is None else self.alpha) / self.rank
        for block in host.blocks:
            for site in dict.fromkeys(TARGETS[t][0] for t in self.targets):
                if site not in block.sites:
                    has = [target for target, (name, _) in TARGETS.items() if name in block.sites]
                    raise UserError(
                        f"LoRA: targets={self.targets!r}: block {block.index} of {host.registered_name()} has no "
                        f"{site}: its blocks have {', '.join(has)}."
                    )
                rows = {t: self.rows(block, t) for t in self.targets if TARGETS[t][0] == site}
                block.place(site, "parallel", LowRank(block.size(site), rows, self.rank, scale, self.drop), site)

    @staticmethod
    def rows(block: Block, target: str) -> tuple[int, int]:
        """Rows of the target's linear that it updates."""
        site, third = TARGETS[target]
        return (0, block.size(site)[1]) if third is None else block.rows(target)

    def count(self, host: Host) -> int:
        # r rows of A, as long as the linear's inputs, and r columns of B, as long as the rows that are updated.
        pairs = [(block.size(TARGETS[t][0])[0], *self.rows(block, t)) for block in host.blocks for t in self.targets]
        return self.rank * sum(inputs + last - first for inputs, first, last in pairs)
