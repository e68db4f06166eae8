"""Consolidator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.algorithms.reparameter.structured.oft import divisor
from vpeft.algorithms.reparameter.targets import OnTargets, Rows, RowUpdates
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.contract.method import STARTS
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS


class GroupedLinear(RowUpdates):
    """``DP(G x + b)``, G block-diagonal: group j of the target's rows reads group j of the inputs, shuffled or not.

    Args:
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) of each target.
        groups: Groups g.
        shuffle: The groups read the inputs in another order: the first of every group, then the second of every group.
        drop_path: Share of the samples whose branch is left out in training.
        std: Bound of the uniform start.
    """

    def __init__(
        self, size: tuple[int, int], rows: Rows, groups: int, shuffle: bool, drop_path: float, std: float
    ) -> None:
        from timm.layers import DropPath  # few methods need timm

        super().__init__(size, rows)
        self.groups, self.shuffle, self.std = groups, shuffle, std
        self.drop_path = DropPath(drop_path)
        sizes = {target: last - first for target, (first, last) in self.rows.items()}
        shapes = {target: (groups, count // groups, size[0] // groups) for target, count in sizes.items()}
        self.weight = nn.ParameterDict({t: torch.empty(shape) for t, shape in shapes.items()})
        self.bias = nn.ParameterDict({t: torch.empty(count) for t, count in sizes.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """G and b uniform between -std and std."""
        for values in (self.weight, self.bias):
            for target in self.rows:
                nn.init.uniform_(values[target], -self.std, self.std)

    def connected(self, target: str, x: Tensor) -> Tensor:
        """``G x``."""
        parts = x.unflatten(-1, (self.groups, -1))
        if self.shuffle:  # the first of every group, then the second of every group, and so on
            parts = parts.transpose(-2, -1).flatten(-2).unflatten(-1, (self.groups, -1))
        return torch.einsum("...gi,goi->...go", parts, self.weight[target].to(x.dtype)).flatten(-2)

    def change(self, target: str, x: Tensor) -> Tensor:
        return self.drop_path(self.connected(target, x) + self.bias[target].to(x.dtype))

    def dense(self, target: str) -> Tensor:
        weight = self.weight[target]
        return self.connected(target, torch.eye(self.in_features, dtype=weight.dtype, device=weight.device)).t()

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, Tensor]:
        """The dense update of all rows, and b."""
        matrix, _ = super().affine()
        shift = matrix.new_zeros(self.out_features)
        for target, (first, last) in self.rows.items():
            shift[first:last] = self.bias[target].double()
        return matrix, shift


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class Consolidator(OnTargets):
    """``y + DP(G x + b)`` on every linear ``y = W0 x + b0``, G a grouped connection (block-diagonal), which merges.

    The authors' DropPath leaves the whole branch out for a sample (in windowed attention: for a window), with 0, 0.2,
    0.5 or 0.8 by task. Inputs may be shuffled between groups, which their released script leaves out.

    Args:
        groups: Groups g of every linear; None means half of a block's width (384 on ViT-B, as the authors), or the
            largest number below that divides outputs and inputs.
        shuffle: Shuffle the inputs between the groups.
        drop_path: Share of the samples whose branch is left out in training.
        init: ``official`` draws G and b between -1e-3 and 1e-3, so it does not start as the frozen host; ``identity``
            starts them at zero.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint G; None means ``qkv``, ``proj``, ``fc1``
            and ``fc2``, in a block without attention fc1 and fc2.
    """

    groups: int | None = None
    shuffle: bool = False
    drop_path: float = 0.0
    init: str = "official"
    targets: tuple[str, ...] | None = None

    category = "reparameter"
    paper = "Consolidator: Mergeable Adapter with Grouped Connections for Visual Adaptation, ICLR 2023, 2305.00603"
    identity_at_start = False
    space = {"drop_path": [0.0, 0.2, 0.5, 0.8], "shuffle": [False, True], "init": ["official", "identity"]}
    mergeable = True
    unverified = "Groups on hosts other than ViT-B are ours."

    def targets_in(self, block: Block) -> tuple[str, ...]:
        if self.targets is not None:
            return self.targets
        return tuple(site for site in ("qkv", "proj", "fc1", "fc2") if site in block.sites)

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_choice("init", STARTS)
        for sizes in self.sizes(host):
            if self.groups is not None and (sizes[0] % self.groups or sizes[1] % self.groups):
                raise UserError(
                    f"Consolidator: groups={self.groups} must divide the {sizes[0]} inputs and {sizes[1]} rows of a "
                    f"target of {host.registered_name()}."
                )

    def parts(self, block: Block, inputs: int, rows: int) -> int:
        """g of a target."""
        return divisor(math.gcd(inputs, rows), block.dim // 2) if self.groups is None else self.groups

    def build(self, host: Host) -> None:
        std = 1e-3 if self.init == "official" else 0.0
        for block, site, rows in self.linears(host):
            size = block.size(site)
            for target, (first, last) in rows.items():
                groups = self.parts(block, size[0], last - first)
                module = GroupedLinear(size, {target: (first, last)}, groups, self.shuffle, self.drop_path, std)
                block.place(site, "parallel", module, target)

    def count(self, host: Host) -> int:
        total = 0
        for block in host.blocks:
            for inputs, rows in self.sizes_in(block):
                total += inputs * rows // self.parts(block, inputs, rows) + rows
        return total
