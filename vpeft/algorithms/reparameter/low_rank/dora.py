"""DoRA."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.algorithms.modules.kept import keeps_output, scale
from vpeft.algorithms.reparameter.lora import LoRA, LowRank, LowRankConv
from vpeft.algorithms.reparameter.targets import Rows
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.backbones.sites.site import Site
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.registry import PEFT_METHODS


class Magnitude(nn.Module):
    """``y <- b + (m / n) (y - b)`` of a linear's output ``y = V x + b``, n the norms of V's rows.

    V = W0 + s B A is never formed: its rows' norms follow from W0 A^T and A A^T. W0 and b are the linear's own, read
    as they are.

    Args:
        site: The linear or convolution.
        update: Its low-rank update; referred to, not owned.
        rows: First and last row (exclusive) of each target; m of the other rows is their norm, always.
        output_is_kept: What follows keeps the result (:func:`.kept.keeps_output`).
    """

    starts_from_base = True

    def __init__(self, site: Site, update: LowRank | LowRankConv, rows: Rows, output_is_kept: bool = False) -> None:
        super().__init__()
        self.output_is_kept = output_is_kept
        self.rows = dict(sorted(rows.items(), key=lambda item: item[1]))
        self.operation, self.update = (site.module,), (update,)  # in tuples, so that torch registers neither again
        # In float64 until it gets the adapter's precision: rounded once, as n is.
        sizes = {target: last - first for target, (first, last) in self.rows.items()}
        self.magnitude = nn.ParameterDict({t: torch.empty(size, dtype=torch.float64) for t, size in sizes.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """m the norms of W0's rows, bit-equal to n where B is zero."""
        down, up = self.update[0].factors()
        norms = self.norms(down, torch.zeros_like(up))
        with torch.no_grad():
            for target, (first, last) in self.rows.items():
                self.magnitude[target].copy_(norms[first:last])

    @torch.no_grad()
    def norms(self, down: Tensor, up: Tensor) -> Tensor:
        """n ``(out,)`` in float64; a constant for the gradient (the paper's Section 4.3)."""
        scale, device = self.update[0].scale, up.device.type
        with nullcontext() if in_program() or up.is_meta else torch.autocast(device, enabled=False):
            weight = self.operation[0].weight.flatten(1)
            square = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64).square()
            square = square + 2 * scale * (weight.to(up) @ down.t() * up).sum(1)
            square = square + scale**2 * (up @ (down @ down.t()) * up).sum(1)
        return square.clamp_min(1e-20).sqrt()  # a row of zeros has a direction from its update alone

    def gains(self, double: bool = False) -> Tensor:
        """``m / n`` of every row, 1 where no target is."""
        down, up = self.update[0].factors()
        own = {target: self.magnitude[target] for target in self.rows}
        if double:
            down, up, own = down.double(), up.double(), {target: m.double() for target, m in own.items()}
        norms, parts, end = self.norms(down, up).to(up), [], 0
        for target, (first, last) in self.rows.items():
            parts += [norms.new_ones(first - end), own[target] / norms[first:last]]
            end = last
        return torch.cat([*parts, norms.new_ones(len(norms) - end)])

    def whole(self) -> Tensor:
        """m ``(out,)``, the norm where no target is."""
        down, up = self.update[0].factors()
        return self.gains() * self.norms(down, up).to(up)

    def bias(self) -> Tensor | None:
        """b as the operation adds it."""
        module = self.operation[0]
        bias = module.bias
        if bias is None or not isinstance(module, StatedLinear):
            return bias
        first, last = module.void
        return torch.cat([bias[:first], torch.zeros_like(bias[first:last]), bias[last:]])

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        gains, bias = self.gains(), self.bias()
        shift = torch.zeros_like(gains) if bias is None else (1 - gains) * bias.to(gains)
        return scale(y, gains, shift, self.output_is_kept)

    def affine(self) -> tuple[Tensor, Tensor | None]:
        """Diagonal ``m / n`` and shift ``(1 - m / n) b``."""
        gains, bias = self.gains(double=True), self.bias()
        return gains, None if bias is None else (1 - gains) * bias.double()


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class DoRA(LoRA):
    """``W <- diag(m) V / ||V||``, ``V = W0 + (alpha / r) B A``; ``||.||`` the norm of each row, m one number a row.

    The paper writes the columns of the transposed weight. The norm is a constant for the gradient (Section 4.3), the
    bias is not scaled, and m starts as ``||W0||``. Where ``drop`` is set, dropout is on the input of A alone, as the
    base's output is scaled as it is; HuggingFace's peft gives the base dropped inputs there.

    Args:
        rank: r.
        alpha: Numerator of the scale; None means r, a scale of 1.
        targets: As LoRA's; None means q and v, in a block without attention fc1 and fc2, and on a host without blocks
            every linear and convolution of at least r rows and columns.
        drop: Dropout on the input of A.
    """

    paper = "DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024, Section 4.1, Equation 5"
    unverified = "A language-model method: q and v as targets in vision, and no weight decay on m, are ours."

    def build(self, host: Host) -> None:
        for name, place, site, rows in self.updated(host):
            update, key = self.update(site, rows), name.replace(".", "_")
            kept = any(block.index == site.index and keeps_output(block, name) for block in host.blocks)
            place(name, "parallel", update, key)
            place(name, "after", Magnitude(site, update, rows, kept), f"{key}_magnitude")

    def count(self, host: Host) -> int:
        # LoRA's, and one number for each row that is updated.
        return super().count(host) + self.updated_rows(host)
