"""KAdaptation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import STARTS, Method
from vpeft.registry import PEFT_METHODS


class SharedRules(nn.Module):
    """``R_i = a_i b_i``, t matrices (t, t) of rank one for q and t for v, shared by all blocks."""

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.column = nn.Parameter(torch.empty(2, terms, terms, 1))
        self.row = nn.Parameter(torch.empty(2, terms, 1, terms))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in (-0.01, 0.01)."""
        for param in (self.column, self.row):
            nn.init.uniform_(param, -0.01, 0.01)

    def matrices(self) -> Tensor:
        """``(2, t, t, t)``: of q and v, term by term."""
        return self.column @ self.row


class KroneckerSum(nn.Module):
    """``q <- q + c x H_q + b``, ``v <- v + c x H_v + b`` with ``H = sum_i R_i kron (l_i r_i)``."""

    def __init__(self, shared: SharedRules, dim: int, terms: int, scale: float, drop: float, init: str) -> None:
        super().__init__()
        self.shared = (shared,)  # in a tuple, so that torch does not register it a second time
        self.scale, self.init = scale, init
        self.drop = nn.Dropout(drop)
        self.left = nn.Parameter(torch.empty(2, terms, dim // terms, 1))
        self.right = nn.Parameter(torch.empty(2, terms, 1, dim // terms))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """r and b zero; l Xavier-normal, or zero too with ``official``."""
        if self.init == "official":
            nn.init.zeros_(self.left)
        else:
            for pair in self.left.data:
                for column in pair:
                    nn.init.xavier_normal_(column)
        nn.init.zeros_(self.right)
        nn.init.zeros_(self.bias)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """``H`` of q and v, ``(2, C, C)``."""
        rules, small = self.shared[0].matrices().to(dtype), (self.left @ self.right).to(dtype)
        return torch.einsum("stab,stcd->sacbd", rules, small).flatten(3).flatten(1, 2)

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y`` (..., 3 C) with the updates of q and v added."""
        q, k, v = y.chunk(3, dim=-1)
        for_q, for_v = self.drop(self.dense(x.dtype))
        q = q.add(x @ for_q, alpha=self.scale) + self.bias
        return torch.cat((q, k, v.add(x @ for_v, alpha=self.scale) + self.bias), dim=-1)

    def affine(self) -> tuple[Tensor, Tensor]:
        """``c H^T`` in the rows of q and v, the shared bias in both."""
        for_q, for_v = self.scale * self.dense(torch.float64)
        bias = self.bias.double()
        matrix = torch.cat((for_q.t(), torch.zeros_like(for_q), for_v.t()))
        return matrix, torch.cat((bias, torch.zeros_like(bias), bias))


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class KAdaptation(Method):
    """``q <- q + c x H_q + b``, v likewise; ``H = sum_{i=1..t} R_i kron (l_i r_i)``, R_i (t, t) of rank one and shared
    by all blocks, separate for q and v; l_i (C/t, 1), r_i (1, C/t), b (C) own per block, b shared by q and v.

    The authors start l and r at zero, where the gradient of both and of R is exactly zero; the default start here has
    l Xavier-normal. Their code uses q's factors for v too; here each has its own. It also adds the change of q behind
    the division by ``sqrt(d)`` and reshapes it without a transposition, which mixes tokens, heads and images; here it
    is added to q as the equation has it.

    Args:
        terms: t.
        scale: c. The authors' 5 alpha / attn_dim with alpha 128 and attn_dim 4.
        drop: Dropout on H.
        init: ``identity``, or ``official`` for the authors' dead start, in which only b learns.
    """

    terms: int = 32
    scale: float = 160.0
    drop: float = 0.5
    init: str = "identity"

    category = "reparameter"
    paper = "Parameter-efficient Model Adaptation for Vision Transformers, AAAI 2023"
    space = {"terms": [4, 16, 32], "scale": [40.0, 160.0, 640.0], "drop": [0.0, 0.5]}
    mergeable = True
    unverified = "Made for few-shot tuning of CLIP; the authors state no setting for VTAB-1k."

    def check(self, host: Host) -> None:
        self.need_square(host)
        self.need_choice("init", STARTS)
        self.need_divisor("terms", host)

    def build(self, host: Host) -> None:
        shared = SharedRules(self.terms)
        host.keep(shared, "shared")
        for block in host.blocks:
            module = KroneckerSum(shared, block.dim, self.terms, self.scale, self.drop, self.init)
            block.place("qkv", "parallel", module, "qkv")

    def count(self, host: Host) -> int:
        t = self.terms
        return sum(4 * t * (b.dim // t) + b.dim for b in host.blocks) + 4 * t * t
