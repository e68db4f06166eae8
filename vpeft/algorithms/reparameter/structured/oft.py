"""OFT: orthogonal fine-tuning, and what rotates the inputs of a linear."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.reparameter.targets import OnTargets, Rows, RowUpdates
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.backbones.sites.site import Site
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS


def skew(values: Tensor, size: int) -> Tensor:
    """Q ``(blocks, size, size)`` from what stands above its diagonal, row by row, ``(blocks, size (size - 1) / 2)``."""
    rows, columns = torch.triu_indices(size, size, 1, device=values.device)
    upper = values.new_zeros(len(values), size, size)
    upper[:, rows, columns] = values
    return upper - upper.transpose(-2, -1)


def cayley(q: Tensor) -> Tensor:
    """``(I + Q)(I - Q)^-1`` of skew-symmetric Q, orthogonal."""
    eye = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    if not in_program():
        return torch.linalg.solve(eye - q, eye + q)
    # Not every exporter has a solver. I - Q^2 has no eigenvalue below 1, so Newton's iteration finds its inverse.
    square = eye - q @ q
    inverse = eye / square.abs().sum(-1).amax(-1)[:, None, None]
    for _ in range(24):
        inverse = inverse @ (2 * eye - square @ inverse)
    return (eye + q) @ (eye + q) @ inverse


def neumann(q: Tensor, terms: int) -> Tensor:
    """``(I + Q)(I + Q + ... + Q^(terms - 2))``: the first terms of what :func:`cayley` gives, nearly orthogonal."""
    eye = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    total = eye
    for _ in range(terms - 2):
        total = eye + q @ total
    return total + q @ total


class Rotation(RowUpdates):
    """``W0 (R^T x - x)`` on the rows of each target: there the linear becomes ``W0 R^T x``.

    W0 is the linear's own, read as it is. A subclass states :meth:`turned`.

    Args:
        site: The linear.
        size: Its inputs and outputs.
        rows: First and last row (exclusive) of each target.
        drop: Chance of a block of R to be the identity in a training pass.
    """

    def __init__(self, site: Site, size: tuple[int, int], rows: Rows, drop: float) -> None:
        super().__init__(size, rows)
        self.operation, self.blocks_off = (site.module,), drop  # in a tuple, so that torch does not register it again

    def weight(self, target: str, like: Tensor) -> Tensor:
        """The target's rows of W0."""
        first, last = self.rows[target]
        return self.operation[0].weight.flatten(1)[first:last].to(like.dtype)

    def turned(self, target: str, x: Tensor) -> Tensor:
        """``R^T x`` for every x along the last dimension."""
        raise NotImplementedError(f"{type(self).__name__} states no rotation: override turned(target, x).")

    def some(self, blocks: Tensor) -> Tensor:
        """Blocks ``(..., size, size)`` with those replaced by the identity that this pass drops."""
        if not self.training or not self.blocks_off:
            return blocks
        stay = torch.rand(*blocks.shape[:-2], 1, 1, device=blocks.device) >= self.blocks_off
        return torch.where(stay, blocks, torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device))

    def change(self, target: str, x: Tensor) -> Tensor:
        return F.linear(self.turned(target, x) - x, self.weight(target, x))

    def changed(self, target: str, weight: Tensor) -> Tensor:
        """What becomes of the rows ``(rows, in)`` of a weight."""
        eye = torch.eye(self.in_features, dtype=weight.dtype, device=weight.device)
        return weight @ self.turned(target, eye).t()

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, None]:
        """The dense update of all rows, and no shift."""
        like = self.operation[0].weight
        whole = torch.zeros(self.out_features, self.in_features, dtype=torch.float64, device=like.device)
        for target, (first, last) in self.rows.items():
            weight = self.weight(target, whole)
            whole[first:last] = self.changed(target, weight) - weight
        return whole, None


class BlockRotation(Rotation):
    """R block-diagonal, each block the Cayley transform of a skew-symmetric Q of its own, or of one for all.

    Args:
        site: The linear.
        size: Its inputs and outputs.
        rows: First and last row (exclusive) of each target.
        block: Size of a block.
        shared: Whether all blocks are one.
        terms: Terms of the series in the place of the inverse, None for the inverse.
        drop: Chance of a block to be the identity in a training pass.
    """

    def __init__(
        self,
        site: Site,
        size: tuple[int, int],
        rows: Rows,
        block: int,
        shared: bool,
        terms: int | None,
        drop: float,
    ) -> None:
        super().__init__(site, size, rows, drop)
        self.block, self.terms = block, terms
        count = 1 if shared else size[0] // block
        self.skew = nn.ParameterDict({t: torch.empty(count, block * (block - 1) // 2) for t in self.rows})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Q zero, so that R is the identity."""
        for target in self.rows:
            nn.init.zeros_(self.skew[target])

    def turned(self, target: str, x: Tensor) -> Tensor:
        values = self.skew[target]
        # No inverse in half precision.
        q = skew(values.to(torch.promote_types(torch.promote_types(values.dtype, x.dtype), torch.float32)), self.block)
        blocks = cayley(q) if self.terms is None else neumann(q, self.terms)
        blocks = self.some(blocks.expand(self.in_features // self.block, -1, -1)).to(x.dtype)
        return (x.unflatten(-1, (-1, 1, self.block)) @ blocks).flatten(-3)


def divisor(size: int, most: int, step: int = 1) -> int:
    """The largest divisor of ``size`` up to ``most`` that is a multiple of ``step``, 1 where there is none."""
    return next((n for n in range(min(most, size), 0, -1) if size % n == 0 and n % step == 0), 1)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class OFT(OnTargets):
    """``W <- W0 R^T``, R (in, in) orthogonal and block-diagonal, ``R_i = (I + Q_i)(I - Q_i)^-1``, ``Q_i = -Q_i^T``.

    The paper writes the transposed weight, ``R W0^T``: its inputs are rotated, so that angles between the neurons stay
    as they are. On a fused qkv each of q, k, v has a rotation of its own, as each is a matrix of its own in the paper.
    Stored is what stands above the diagonals, b (b - 1) / 2 numbers a block; the authors' code stores whole blocks.
    HuggingFace's peft has ``(I - Q)(I + Q)^-1`` where it inverts: Q of the other sign. The bias stays. The variant
    with a bound on the rotation (COFT) is not here.

    Args:
        block: Size b of a block; None means 32, or the largest divisor of a linear's inputs below.
        shared: One block for all of a target.
        terms: Terms of the series ``(I + Q)(I + Q + Q^2 + ...)`` in the place of the inverse, 5 in HuggingFace's peft;
            None inverts, as the paper.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint rotation; None means q and v, in a block
            without attention fc1 and fc2.
        drop: Chance of a block to be the identity in a training pass.
    """

    block: int | None = None
    shared: bool = False
    terms: int | None = None
    targets: tuple[str, ...] | None = None
    drop: float = 0.0

    category = "reparameter"
    paper = "Controlling Text-to-Image Diffusion by Orthogonal Finetuning, NeurIPS 2023, 2306.07280"
    space = {"block": [4, 8, 16, 32], "shared": [False, True]}
    limits = {"block": (2, 2**16), "terms": (3, 64)}
    mergeable = True
    unverified = "A method of diffusion models: q and v as targets are ours; sections of the paper are not named."

    def check(self, host: Host) -> None:
        super().check(host)
        for inputs, _ in self.sizes(host):
            if self.block is not None and inputs % self.block:
                raise UserError(
                    f"{self.registered_name()}: block={self.block} does not divide the {inputs} inputs of a linear of "
                    f"{host.registered_name()}."
                )

    def size(self, inputs: int) -> int:
        """b of a linear."""
        return divisor(inputs, 32) if self.block is None else self.block

    def build(self, host: Host) -> None:
        for block, site, rows in self.linears(host):
            size = block.size(site)
            options = (self.size(size[0]), self.shared, self.terms, self.drop)
            block.place(site, "parallel", BlockRotation(block.sites[site], size, rows, *options), site)

    def count(self, host: Host) -> int:
        total = 0
        for inputs, _ in self.sizes(host):
            b = self.size(inputs)
            total += (1 if self.shared else inputs // b) * (b * (b - 1) // 2)
        return total
