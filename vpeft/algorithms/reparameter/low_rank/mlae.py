"""MLAE: masked experts of rank one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.reparameter.targets import OnTargets, Rows, RowUpdates
from vpeft.core.backbones.host import Host
from vpeft.registry import PEFT_METHODS


class Experts(RowUpdates):
    """``sum_k lambda_k m_k b_k (a_k . x)`` for each target.

    Args:
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) of each target.
        rank: Experts of each target.
        alpha: What every lambda starts as.
        expert_drop: p of the mask m.
        drop: Dropout on the input.
    """

    def __init__(
        self, size: tuple[int, int], rows: Rows, rank: int, alpha: float, expert_drop: float, drop: float
    ) -> None:
        super().__init__(size, rows, drop)
        self.alpha, self.mask = alpha, nn.Dropout(expert_drop)
        self.down = nn.ParameterDict({t: torch.empty(rank, self.in_features) for t in rows})
        self.up = nn.ParameterDict({t: torch.empty(last - first, rank) for t, (first, last) in rows.items()})
        self.weight = nn.ParameterDict({t: torch.empty(rank) for t in rows})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A Kaiming-uniform with a = sqrt 5, B zero, every lambda alpha."""
        for target in self.rows:
            nn.init.kaiming_uniform_(self.down[target], a=math.sqrt(5))
            nn.init.zeros_(self.up[target])
            nn.init.constant_(self.weight[target], self.alpha)

    def change(self, target: str, x: Tensor) -> Tensor:
        code = F.linear(x, self.down[target])
        return F.linear(code * self.mask(self.weight[target]).to(code.dtype), self.up[target])

    def dense(self, target: str) -> Tensor:
        """``B diag(lambda) A``: no expert is masked in what is merged."""
        return self.up[target] * self.weight[target] @ self.down[target]


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class MLAE(OnTargets):
    """``y <- W0 x + sum_k lambda_k m_k b_k (a_k . x)``: LoRA's rank as r experts of rank one, each with a learned
    weight. In training every pass leaves out experts: ``m_k = Bernoulli(1 - p) / (1 - p)``, one draw for the whole
    batch. There is no factor alpha / r.

    Args:
        rank: r, the experts of each target.
        alpha: What every lambda starts as.
        expert_drop: p.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for joint experts; None means q and v, in a block
            without attention fc1 and fc2.
        drop: Dropout on the input of A.
    """

    rank: int = 8
    alpha: float = 1.0
    expert_drop: float = 0.5
    targets: tuple[str, ...] | None = None
    drop: float = 0.0

    category = "reparameter"
    paper = "MLAE: Masked LoRA Experts for Visual Parameter-Efficient Fine-Tuning, 2405.18897"
    space = {"rank": [4, 8, 16], "expert_drop": [0.0, 0.25, 0.5], "alpha": [1.0, 4.0]}
    limits = {"expert_drop": (0, 1)}
    mergeable = True
    unverified = "The authors released the layer alone: rank 8, p = 0.5, and q and v as targets, are ours."

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_width("rank", host)

    def build(self, host: Host) -> None:
        for block, site, rows in self.linears(host):
            experts = Experts(block.size(site), rows, self.rank, self.alpha, self.expert_drop, self.drop)
            block.place(site, "parallel", experts, site)

    def count(self, host: Host) -> int:
        # LoRA's, and one number for each expert.
        return self.rank * sum(inputs + rows + 1 for inputs, rows in self.sizes(host))
