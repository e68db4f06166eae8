"""LoHa."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.algorithms.reparameter.targets import OnTargets, Rows, RowUpdates
from vpeft.core.backbones.host import Host
from vpeft.registry import PEFT_METHODS


class Hadamard(RowUpdates):
    """``s (B1 A1) * (B2 A2)``, entry by entry; the product is made dense."""

    def __init__(self, size: tuple[int, int], rows: Rows, rank: int, scale: float, drop: float) -> None:
        super().__init__(size, rows, drop)
        self.scale = scale
        down = {t: torch.empty(rank, self.in_features) for t in rows}
        up = {t: torch.empty(last - first, rank) for t, (first, last) in rows.items()}
        self.down1, self.down2 = (nn.ParameterDict({t: x.clone() for t, x in down.items()}) for _ in range(2))
        self.up1, self.up2 = (nn.ParameterDict({t: x.clone() for t, x in up.items()}) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A2 zero, all else Kaiming-uniform with a = sqrt 5."""
        for target in self.rows:
            for start in (self.up1, self.down1, self.up2):
                nn.init.kaiming_uniform_(start[target], a=math.sqrt(5))
            nn.init.zeros_(self.down2[target])

    def dense(self, target: str) -> Tensor:
        first = self.up1[target] @ self.down1[target]
        return first * (self.up2[target] @ self.down2[target]) * self.scale


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class LoHa(OnTargets):
    """``W <- W0 + (alpha / r) (B1 A1) * (B2 A2)``, a product entry by entry: its rank is up to r^2.

    Args:
        rank: r.
        alpha: Numerator of the scale; None means r, a scale of 1.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint update; None means q and v, in a block
            without attention fc1 and fc2.
        drop: Dropout on the input.
    """

    rank: int = 8
    alpha: float | None = None
    targets: tuple[str, ...] | None = None
    drop: float = 0.0

    category = "reparameter"
    paper = "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning, ICLR 2022, 2108.06098"
    space = {"rank": [2, 4, 8, 16], "alpha": [4.0, 8.0, 16.0, 32.0]}
    mergeable = True
    unverified = "The start is that of HuggingFace's peft; q and v as targets are ours."

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_width("rank", host)

    def build(self, host: Host) -> None:
        scale = (self.rank if self.alpha is None else self.alpha) / self.rank
        for block, site, rows in self.linears(host):
            update = Hadamard(block.size(site), rows, self.rank, scale, self.drop)
            block.place(site, "parallel", update, site)

    def count(self, host: Host) -> int:
        return 2 * self.rank * sum(inputs + rows for inputs, rows in self.sizes(host))
