"""KAdaptation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vpeft.algorithms.modules.kept import as_autocast
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program
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


def kronecker_sum(column: Tensor, row: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """``H = sum_i (a_i b_i) kron (l_i r_i)`` of q and v, ``(2, C, C)``."""
    rules, small = (column @ row).to(dtype), (left @ right).to(dtype)
    return torch.einsum("stab,stcd->sacbd", rules, small).flatten(3).flatten(1, 2)


class _Product(torch.autograd.Function):
    """``x H_q`` and ``x H_v``, which keeps the factors of H and what dropout left of it, and makes H again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, drop: float, *factors: Tensor) -> tuple[Tensor, Tensor]:
        dense, mask = kronecker_sum(*factors, x.dtype), None
        if drop:
            dense, mask = torch.native_dropout(dense, drop, True)
        ctx.keep = 1 - drop
        ctx.save_for_backward(x, mask, *factors)
        return x @ dense[0], x @ dense[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, *factors = ctx.saved_tensors
        factors = [factor.detach().requires_grad_() for factor in factors]
        with torch.enable_grad():
            dense = kronecker_sum(*factors, x.dtype)
            dense = dense if mask is None else dense * mask / max(ctx.keep, 1e-12)
        to_x = sum(grad @ own.t() for grad, own in zip(grads, dense.detach(), strict=True))
        flat = x.flatten(0, -2).t()
        to_dense = torch.stack([flat @ grad.flatten(0, -2) for grad in grads])
        return to_x if ctx.needs_input_grad[0] else None, None, *torch.autograd.grad(dense, factors, to_dense)


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
        return kronecker_sum(*self.factors(), dtype)

    def factors(self) -> tuple[Tensor, ...]:
        """a, b, l and r."""
        return self.shared[0].column, self.shared[0].row, self.left, self.right

    def products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x H_q`` and ``x H_v``, with dropout on H."""
        if in_program() or not torch.is_grad_enabled():
            for_q, for_v = self.drop(self.dense(x.dtype))
            return x @ for_q, x @ for_v
        (x,) = as_autocast(x)
        return _Product.apply(x, self.drop.p if self.training else 0.0, *self.factors())

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y`` (..., 3 C) with the updates of q and v added."""
        q, k, v = y.chunk(3, dim=-1)
        for_q, for_v = self.products(x)
        q = q.add(for_q, alpha=self.scale) + self.bias
        return torch.cat((q, k, v.add(for_v, alpha=self.scale) + self.bias), dim=-1)

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
