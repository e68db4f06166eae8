"""LoKr."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.algorithms.reparameter.targets import OnTargets, Rows, RowUpdates
from vpeft.core.backbones.host import Host
from vpeft.registry import PEFT_METHODS


def factors(size: int, factor: int | None) -> tuple[int, int]:
    """Two factors of ``size``, the smaller first: the first is ``factor`` where that divides it, and else the largest
    divisor up to the root of ``size``, and up to ``factor`` where that is given.
    """
    if factor is not None and size % factor == 0:
        return factor, size // factor
    most = math.isqrt(size) if factor is None else min(factor, math.isqrt(size))
    first = next(n for n in range(most, 0, -1) if size % n == 0)
    return first, size // first


class LowRankKronecker(RowUpdates):
    """``s (C kron B A)``, or ``s (C kron D)`` where B A would be no smaller; never made dense but for merging."""

    def __init__(
        self, size: tuple[int, int], rows: Rows, rank: int, scale: float, factor: int | None, drop: float
    ) -> None:
        super().__init__(size, rows, drop)
        self.scale = scale
        self.left, self.down, self.up, self.right = (nn.ParameterDict() for _ in range(4))
        for target, (first, last) in rows.items():
            for name, shape in shapes(self.in_features, last - first, rank, factor).items():
                getattr(self, name)[target] = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """C zero, all else Kaiming-uniform with a = sqrt 5."""
        for name in ("left", "up", "down", "right"):
            for tensor in getattr(self, name).values():
                if name == "left":
                    nn.init.zeros_(tensor)
                else:
                    nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))

    def second(self, target: str) -> Tensor:
        """The second factor, ``B A`` or ``D``."""
        return self.right[target] if target in self.right else self.up[target] @ self.down[target]

    def change(self, target: str, x: Tensor) -> Tensor:
        left, right = self.left[target], self.second(target)
        # Row i of the map is piece i of x: (C kron D) x = C X D^T, row by row.
        pieces = x.unflatten(-1, (left.shape[1], right.shape[1])) @ right.t()
        return (left @ pieces).flatten(-2) * self.scale

    def dense(self, target: str) -> Tensor:
        return torch.kron(self.left[target], self.second(target).contiguous()) * self.scale


def shapes(inputs: int, outputs: int, rank: int, factor: int | None) -> dict[str, tuple[int, int]]:
    """Shapes of C, and of B and A or D, for one target."""
    (in1, in2), (out1, out2) = factors(inputs, factor), factors(outputs, factor)
    if rank < max(out2, in2) / 2:
        return {"left": (out1, in1), "up": (out2, rank), "down": (rank, in2)}
    return {"left": (out1, in1), "right": (out2, in2)}


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class LoKr(OnTargets):
    """``W <- W0 + (alpha / r) C kron (B A)``; C is of the smaller factors of outputs and inputs, B A of the others.

    Where r is at least half of the larger of these, one matrix D stands in the place of ``B A``.

    Args:
        rank: r of B A.
        alpha: Numerator of the scale; None means r, a scale of 1.
        factor: First factor of outputs and inputs, where it divides them; None takes factors next to their roots.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint update; None means q and v, in a block
            without attention fc1 and fc2.
        drop: Dropout on the input.
    """

    rank: int = 8
    alpha: float | None = None
    factor: int | None = None
    targets: tuple[str, ...] | None = None
    drop: float = 0.0

    category = "reparameter"
    paper = (
        "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation, 2309.14859, Section 3"
    )
    space = {"rank": [2, 4, 8, 16], "alpha": [4.0, 8.0, 16.0, 32.0], "factor": [4, 8, 16]}
    mergeable = True
    unverified = "The start and the factors are those of HuggingFace's peft; q and v as targets are ours."

    def build(self, host: Host) -> None:
        scale = (self.rank if self.alpha is None else self.alpha) / self.rank
        for block, site, rows in self.linears(host):
            update = LowRankKronecker(block.size(site), rows, self.rank, scale, self.factor, self.drop)
            block.place(site, "parallel", update, site)

    def count(self, host: Host) -> int:
        every = (shapes(inputs, rows, self.rank, self.factor) for inputs, rows in self.sizes(host))
        return sum(math.prod(shape) for found in every for shape in found.values())
