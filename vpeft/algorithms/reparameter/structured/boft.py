"""BOFT."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.reparameter.structured.oft import Rotation, cayley, divisor, skew
from vpeft.algorithms.reparameter.targets import OnTargets, Rows
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.site import Site
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS


class Butterfly(Rotation):
    """``R = F_m ... F_1``, then the rows scaled by s; F_i is block-diagonal among channels of growing distance.

    Channels are cut into pieces of half a block. In a run of ``2^i`` blocks, block k of ``F_(i + 1)`` turns the pieces
    k and ``k + 2^i``: neighbours in F_1, and further apart by the factor.

    Args:
        site: The linear.
        size: Its inputs and outputs.
        rows: First and last row (exclusive) of each target.
        block: Size of a block.
        factors: m.
        gains: Whether there is an s for each row.
        drop: Chance of a block to be the identity in a training pass.
    """

    def __init__(
        self,
        site: Site,
        size: tuple[int, int],
        rows: Rows,
        block: int,
        factors: int,
        gains: bool,
        drop: float,
    ) -> None:
        super().__init__(site, size, rows, drop)
        self.block, self.factors = block, factors
        shape = (factors, size[0] // block, block * (block - 1) // 2)
        self.skew = nn.ParameterDict({t: torch.empty(shape) for t in self.rows})
        sizes = {t: last - first for t, (first, last) in self.rows.items()} if gains else {}
        self.scale = nn.ParameterDict({t: torch.empty(count) for t, count in sizes.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Q zero and s one, so that nothing changes."""
        for target in self.skew:
            nn.init.zeros_(self.skew[target])
        for target in self.scale:
            nn.init.ones_(self.scale[target])

    def turned(self, target: str, x: Tensor) -> Tensor:
        values = self.skew[target]
        wide = torch.promote_types(torch.promote_types(values.dtype, x.dtype), torch.float32)
        blocks = cayley(skew(values.to(wide).flatten(0, 1), self.block)).unflatten(0, values.shape[:2])
        blocks = self.some(blocks).to(x.dtype)
        for i in reversed(range(self.factors)):  # R^T x = F_1^T ... F_m^T x
            runs = x.unflatten(-1, (-1, 2, 2**i, self.block // 2)).transpose(-3, -2) if i else x
            runs = (runs.reshape(*x.shape[:-1], -1, 1, self.block) @ blocks[i]).flatten(-3)
            x = runs.unflatten(-1, (-1, 2**i, 2, self.block // 2)).transpose(-3, -2).flatten(-4) if i else runs
        return x

    def scaled(self, target: str, weight: Tensor) -> Tensor:
        """Rows of a weight times s."""
        return weight * self.scale[target].to(weight.dtype)[:, None] if target in self.scale else weight

    def change(self, target: str, x: Tensor) -> Tensor:
        weight = self.weight(target, x)
        if target not in self.scale:
            return super().change(target, x)
        # Two products of one form: their difference is zero, bit for bit, until something has moved.
        return F.linear(self.turned(target, x), self.scaled(target, weight)) - F.linear(x, weight)

    def changed(self, target: str, weight: Tensor) -> Tensor:
        return self.scaled(target, super().changed(target, weight))


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class BOFT(OnTargets):
    """``W <- diag(s) W0 R^T``, ``R = F_m ... F_1`` a product of m sparse rotations in the form of a butterfly.

    Each F_i is block-diagonal in an order of the channels of its own, with blocks as OFT's: m factors with blocks of b
    connect ``2^(m - 1) b`` channels, where OFT needs blocks of that size. One factor is OFT with s. There is an s for
    each row of the weight, as in the authors' code in HuggingFace's peft; the bias is not scaled.

    Args:
        block: Size b of a block, even where there are several factors; None means 8, or the largest below that fits.
        factors: m; ``2^(m - 1) b`` must divide a linear's inputs.
        gains: Train s. False leaves the rotation alone.
        targets: As OFT's.
        drop: Chance of a block to be the identity in a training pass. The authors' code draws a fixed share of the
            blocks of one factor.
    """

    block: int | None = None
    factors: int = 2
    gains: bool = True
    targets: tuple[str, ...] | None = None
    drop: float = 0.0

    category = "reparameter"
    paper = "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization, ICLR 2024, 2311.06243"
    space = {"block": [4, 8], "factors": [1, 2, 3], "drop": [0.0, 0.1]}
    limits = {"block": (2, 2**16), "factors": (1, 16)}
    mergeable = True
    identity_at_start = "rounding"  # on some hosts the products behind it round otherwise
    unverified = "q and v as targets are ours; sections of the paper are not named."

    def check(self, host: Host) -> None:
        super().check(host)
        for inputs, _ in self.sizes(host):
            size, apart = self.size(inputs), 2 ** (self.factors - 1)
            if inputs % (size * apart) or (apart > 1 and size % 2):
                even = " and be even" if apart > 1 else ""
                raise UserError(
                    f"{self.registered_name()}: block={self.block}, factors={self.factors}: block * 2^(factors - 1) "
                    f"must divide the {inputs} inputs of a linear of {host.registered_name()}{even}."
                )

    def size(self, inputs: int) -> int:
        """b of a linear."""
        apart = 2 ** (self.factors - 1)
        if self.block is not None:
            return self.block
        return divisor(inputs // apart, 8, 2 if apart > 1 else 1) if inputs % apart == 0 else 8

    def build(self, host: Host) -> None:
        for block, site, rows in self.linears(host):
            size = block.size(site)
            options = (self.size(size[0]), self.factors, self.gains, self.drop)
            block.place(site, "parallel", Butterfly(block.sites[site], size, rows, *options), site)

    def count(self, host: Host) -> int:
        total = 0
        for inputs, rows in self.sizes(host):
            b = self.size(inputs)
            total += self.factors * (inputs // b) * (b * (b - 1) // 2) + (rows if self.gains else 0)
        return total
