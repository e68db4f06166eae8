"""PiSSA, and what else starts LoRA from the weight that it updates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.reparameter.lora import LoRA, LowRank
from vpeft.algorithms.reparameter.low_rank.lora_fa import freeze
from vpeft.algorithms.reparameter.targets import Rows
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.site import Site
from vpeft.registry import PEFT_METHODS


class FromWeight(LowRank):
    """``s (B A - B0 A0) x``, A0 and B0 the start of A and B, which a subclass takes from the weight W0.

    With W0 this is ``(W0 - s B0 A0) + s B A``, the residual and the pair of the papers, and W0 stays as it is. A0 and
    B0 are stored with the adapter.

    Args:
        site: The linear.
        rows: First and last row (exclusive) that each target updates.
        rank: r of each target.
        scale: s.
        drop: Dropout on the input of A and A0.
    """

    starts_from_base = True

    def __init__(self, site: Site, rows: Rows, rank: int, scale: float, drop: float) -> None:
        self.operation = (site.module,)  # in a tuple, so that torch does not register it a second time
        out, inputs = site.module.weight.shape[:2]
        super().__init__((inputs, out), rows, rank, scale, drop)
        self.first = LowRank((inputs, out), rows, rank, scale, 0.0)
        freeze(self.first, "down", "up")
        self.to(torch.promote_types(site.module.weight.dtype, torch.float32))
        self.reset_parameters()

    @staticmethod
    def start(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        """A0 ``(r, in)`` and B0 ``(out, r)`` of the rows ``(out, in)`` of a weight."""
        raise NotImplementedError("state the start of A and B")

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A and B from the weight's rows, A0 and B0 the same."""
        if not hasattr(self, "first"):  # the pair is being made
            return
        weight = self.operation[0].weight.flatten(1)
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        for target, (first, last) in self.rows.items():
            down, up = self.start(weight[first:last], self.rank, self.scale)
            for pair in (self, self.first):
                pair.down[target].copy_(down)
                pair.up[target].copy_(up)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        # Of a transposed view torch folds a product whose weight asks for a gradient, and none whose weight is frozen.
        x, extents = self.dropped(x).flatten(0, -2), x.shape[:-1]
        down, up = self.factors()
        # Two products of one form: their difference is zero, bit for bit, until A and B have moved.
        change = F.linear(F.linear(x, down), up) * self.scale
        return (change - self.first(x, flow)).view(*extents, -1)

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        return y + self(x, flow).to(y.dtype)

    def pair(self, first: int, last: int) -> tuple[Tensor, Tensor] | None:
        """A ``(2 r, in)`` and B ``(last - first, 2 r)`` of the update of these rows of W0; None without any."""
        own, start = super().pair(first, last), self.first.pair(first, last)
        return own and (torch.cat([own[0], start[0]]), torch.cat([own[1], -start[1]], 1))

    def affine(self) -> tuple[Tensor, None]:
        """The dense update ``s (B A - B0 A0)`` of W0, and no shift."""
        return super().affine()[0] - self.first.affine()[0], None


class Principal(FromWeight):
    """From the r largest singular values and their vectors."""

    @staticmethod
    def start(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        """``A0 = sqrt(S / s) V^T``, ``B0 = U sqrt(S / s)`` with ``W0 = U S V^T``."""
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        roots = (values[:rank] / scale).sqrt()
        return roots[:, None] * right[:rank], left[:, :rank] * roots


class FromBase(LoRA):
    """LoRA whose pairs start from the weight.

    The paper writes the residual into the base. Here W0 stays as it is, and ``s (B A - B0 A0)`` is added to it: the
    same function and the same gradients, and the base's fingerprint, detaching and merging are those of every method.
    The adapter holds A0 and B0 beside A and B.

    Args:
        rank: r.
        alpha: Numerator of the scale; None means r, a scale of 1.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint pair; None means q and v, in a block
            without attention fc1 and fc2.
        drop: Dropout on the input of A and A0.
    """

    unverified = "A language-model method: q and v as targets in vision are ours."
    needs_blocks = True
    kind = FromWeight

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_width("rank", host, [min(sizes) for sizes in self.sizes(host)])

    def update(self, site: Site, rows: Rows) -> nn.Module:
        return self.kind(site, rows, self.rank, self.scale, self.drop)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class PiSSA(FromBase):
    __doc__ = f"""``W <- (W0 - s B0 A0) + s B A``, ``s = alpha / r``: A and B start as W0's principal part ``s B0 A0``.

    {FromBase.__doc__}"""

    paper = "PiSSA: Principal Singular Values and Singular Vectors Adaptation of LLMs, NeurIPS 2024, Section 3"
    kind = Principal
