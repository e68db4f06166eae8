"""RLRR: residual low-rank rescaling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.modules.scale_shift import ScaleShift
from vpeft.algorithms.reparameter.targets import TARGETS, OnTargets, Rows, RowUpdates
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.site import Site
from vpeft.core.contract.method import STARTS
from vpeft.registry import PEFT_METHODS

ALL = ("q", "k", "v", "proj", "fc1", "fc2")
NORMS = ("norm1", "norm2")


class Rescaled(RowUpdates):
    """``row * (W (column * x)) + f``: the weight W of some rows, times a matrix of rank one, without forming it.

    Args:
        site: The linear; its weight is read as it is.
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) of each target.
        identity: Start with no change.
    """

    def __init__(self, site: Site, size: tuple[int, int], rows: Rows, identity: bool) -> None:
        super().__init__(size, rows)
        self.operation, self.identity = (site.module,), identity  # in a tuple, so that torch registers it once
        # Matrices, as the authors': weight decay reaches them.
        self.column = nn.ParameterDict({t: torch.empty(1, self.in_features) for t in rows})
        self.row = nn.ParameterDict({t: torch.empty(last - first, 1) for t, (first, last) in rows.items()})
        self.shift = nn.Parameter(torch.empty(sum(last - first for first, last in rows.values())))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Both Kaiming-uniform, bounds ``sqrt(6 / in)`` and ``sqrt 6`` (row zero as the identity), f zero."""
        for target in self.rows:
            nn.init.kaiming_uniform_(self.column[target])
            nn.init.zeros_(self.row[target]) if self.identity else nn.init.kaiming_uniform_(self.row[target])
        nn.init.zeros_(self.shift)

    def shifts(self) -> dict[str, Tensor]:
        """f of each target's rows."""
        return dict(zip(self.rows, self.shift.split([last - first for first, last in self.rows.values()]), strict=True))

    def weight(self, target: str) -> Tensor:
        """W of the target's rows."""
        return self.operation[0].weight.flatten(1)[slice(*self.rows[target])]

    def change(self, target: str, x: Tensor) -> Tensor:
        y = F.linear(x * self.column[target][0].to(x.dtype), self.weight(target).to(x.dtype))
        return y * self.row[target][:, 0].to(y.dtype) + self.shifts()[target].to(y.dtype)

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, Tensor]:
        """``W * (row column)`` and f, zero where no target is."""
        matrix = torch.zeros(self.out_features, self.in_features, dtype=torch.float64, device=self.shift.device)
        shift, shifts = matrix.new_zeros(self.out_features), self.shifts()
        for target, (first, last) in self.rows.items():
            scale = self.row[target].double() * self.column[target].double()
            matrix[first:last] = self.weight(target).double() * scale
            shift[first:last] = shifts[target].double()
        return matrix, shift


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class RLRR(OnTargets):
    """``W <- W + W * (s_row s_col)``, ``b <- b + f`` for q, k, v, proj, fc1 and fc2, s_row (out, 1), s_col (1, in); a
    scale and shift (SSF's) after the patch embedding, LN1, LN2 and the output norms.

    The change is computed as ``s_row * W (s_col * x)``: one product more, no dense matrix and no dense gradient.
    The authors' Swin has one rank-one matrix for the whole of qkv (``targets=["qkv", "proj", "fc1", "fc2"]``, what
    ``configs/vtab/rlrr_swin.py`` uses), no scale after the patch embedding, and rescales the patch mergings' linears
    too, which is left out here. Their DropPath is dropout of single numbers; here it is the host's own.

    Args:
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one matrix of its rows together; None means all that
            a block has, q, k and v apart.
        init: ``official`` has both s Kaiming-uniform (products up to 0.2 at a width of 768) and SSF's gamma from N(1,
            0.02), beta from N(0, 0.02), so it does not start exactly as the frozen host; ``identity`` does, with s_row
            at zero.
    """

    targets: tuple[str, ...] | None = None
    init: str = "official"

    category = "reparameter"
    paper = "Low-Rank Rescaled Vision Transformer Fine-Tuning: A Residual Design Approach, CVPR 2024"
    mergeable = True
    identity_at_start = False

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_choice("init", STARTS)

    def targets_in(self, block: Block) -> tuple[str, ...]:
        if self.targets is not None:
            return self.targets
        return tuple(t for t in ALL if TARGETS[t][0] in block.sites)

    def build(self, host: Host) -> None:
        identity = self.init == "identity"
        for block, site, rows in self.linears(host):
            block.place(site, "parallel", Rescaled(block.sites[site], block.size(site), rows, identity), site)
        for name, place, width in self.scaled(host):
            place(name, "after", ScaleShift(width, 0.0 if identity else 0.02), name.replace(".", "_"))

    @staticmethod
    def scaled(host: Host) -> Iterator[tuple]:
        """Of what is scaled as in SSF: the site, what places a module there, and the channels."""
        for name, module in host.modules.items():
            if name == "patch_embed" or name in host.output_norms:
                yield name, host.place, module.weight.shape[0]
        for block in host.blocks:
            for name, module in block.linears(*NORMS):
                yield name, block.place, module.weight.shape[0]

    def count(self, host: Host) -> int:
        # A ViT's block: q, k, v 9C, proj 3C, fc1 9C, fc2 6C, two norms 4C: 31 C.
        linears = sum(inputs + 2 * rows for inputs, rows in self.sizes(host))
        return linears + sum(2 * width for *_, width in self.scaled(host))
