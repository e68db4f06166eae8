"""LoRAmul: low-rank products with the weights, and a low-rank prompt; the base of PACE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.reparameter.targets import TARGETS, OnTargets, Rows, RowUpdates
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.site import Site
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.registry import PEFT_METHODS

ALL = ("qkv", "proj", "fc1", "fc2")


class Product(RowUpdates):
    """``(W * (B A)) x + W (p1 p2) + b * d`` for some rows of a linear ``W x + b``, whose W and b are read as they are.

    Args:
        site: The linear.
        size: Its inputs and outputs.
        rows: First and last row (exclusive) of each target.
        rank: r.
    """

    def __init__(self, site: Site, size: tuple[int, int], rows: Rows, rank: int) -> None:
        super().__init__(size, rows)
        self.operation = (site.module,)  # in a tuple, so that torch registers it once
        widths = {t: last - first for t, (first, last) in rows.items()}
        self.down = nn.ParameterDict({t: torch.empty(rank, self.in_features) for t in rows})
        self.up = nn.ParameterDict({t: torch.empty(width, rank) for t, width in widths.items()})
        self.prompt_down = nn.ParameterDict({t: torch.empty(rank, 1) for t in rows})
        self.prompt_up = nn.ParameterDict({t: torch.empty(self.in_features, rank) for t in rows})
        biased = widths if site.module.bias is not None else {}
        self.bias = nn.ParameterDict({t: torch.empty(width) for t, width in biased.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A and p2 Xavier-uniform, all else zero."""
        for target in self.rows:
            nn.init.xavier_uniform_(self.down[target])
            nn.init.xavier_uniform_(self.prompt_down[target])
            nn.init.zeros_(self.up[target])
            nn.init.zeros_(self.prompt_up[target])
        for target in self.bias:
            nn.init.zeros_(self.bias[target])

    def update(self, target: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """``W * (B A)`` and ``W (p1 p2) + b * d`` of a target's rows."""
        module, rows = self.operation[0], slice(*self.rows[target])
        weight = module.weight.flatten(1)[rows].to(dtype)
        prompt = self.prompt_up[target].to(dtype) @ self.prompt_down[target].to(dtype)
        shift = (weight @ prompt)[:, 0]
        if target in self.bias:
            shift = shift + self._bias(module)[rows].to(dtype) * self.bias[target].to(dtype)
        return weight * (self.up[target].to(dtype) @ self.down[target].to(dtype)), shift

    @staticmethod
    def _bias(module: nn.Module | StatedLinear) -> Tensor:
        bias = module.bias
        if not isinstance(module, StatedLinear):
            return bias
        first, last = module.void
        return torch.cat([bias[:first], torch.zeros_like(bias[first:last]), bias[last:]])

    def change(self, target: str, x: Tensor) -> Tensor:
        return F.linear(x, *(part.to(x.dtype) for part in self.update(target, self.up[target].dtype)))

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, Tensor]:
        """The dense update of the weight and of the bias, zero where no target is."""
        matrix = torch.zeros(
            self.out_features, self.in_features, dtype=torch.float64, device=next(self.parameters()).device
        )
        shift = matrix.new_zeros(self.out_features)
        for target, (first, last) in self.rows.items():
            matrix[first:last], shift[first:last] = self.update(target, torch.float64)
        return matrix, shift


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class LoRAmul(OnTargets):
    """``W <- W * (1 + B A)``, ``b <- b * (1 + d) + W (p1 p2)`` on every linear of the blocks: products entry by entry
    with a low-rank matrix, A (r, in), B (out, r), and a prompt of low rank, p1 (in, r), p2 (r, 1), that is added to the
    linear's input. LoRAmul-VPTadd of PACE's authors.

    The dense update is made in every step, as in the authors' code, and its dense gradient with it. Their Swin has it
    on the patch mergings' linears too, which is left out here; where a linear has no bias there is no d.

    Args:
        rank: r. The authors' one example has 10.
        targets: Any of ``q, k, v, qkv, proj, fc1, fc2``; None means qkv as one, proj, fc1 and fc2.
    """

    rank: int = 10
    targets: tuple[str, ...] | None = None

    category = "reparameter"
    paper = (
        "PACE: Marrying Generalization in PArameter-efficient Fine-Tuning with Consistency rEgularization, NeurIPS 2024"
    )
    space = {"rank": [4, 8, 10, 16]}
    mergeable = True

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_width("rank", host)

    def targets_in(self, block: Block) -> tuple[str, ...]:
        if self.targets is not None:
            return self.targets
        return tuple(t for t in ALL if TARGETS[t][0] in block.sites)

    def build(self, host: Host) -> None:
        for block, site, rows in self.linears(host):
            block.place(site, "parallel", Product(block.sites[site], block.size(site), rows, self.rank), site)

    def count(self, host: Host) -> int:
        # Of each target A r in, B out r, p1 in r, p2 r, and d out where there is a bias.
        r, total = self.rank, 0
        for block, site, rows in self.linears(host):
            inputs, biased = block.size(site)[0], block.sites[site].module.bias is not None
            total += sum(r * (2 * inputs + 1) + (r + biased) * (last - first) for first, last in rows.values())
        return total
