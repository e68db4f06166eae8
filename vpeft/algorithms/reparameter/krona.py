"""KronA."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS

THIRDS = "qkv"


class Kronecker(nn.Module):
    """``s (A kron B) x`` for some of q, k, v; A (a, a), B (b, b), a b = C. The product is never made dense."""

    def __init__(self, dim: int, targets: tuple[str, ...], size: int, scale: float) -> None:
        super().__init__()
        self.scale, self.targets, self.dim = scale, targets, dim
        self.left = nn.ParameterDict({t: torch.empty(size, size) for t in targets})
        self.right = nn.ParameterDict({t: torch.empty(dim // size, dim // size) for t in targets})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A zero, B Kaiming-uniform with a = sqrt 5."""
        for target in self.targets:
            nn.init.zeros_(self.left[target])
            nn.init.kaiming_uniform_(self.right[target], a=math.sqrt(5))

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y`` (..., 3 C) with the update of every target added to its third."""
        thirds = list(y.chunk(3, dim=-1))
        for target in self.targets:
            left, right = self.left[target], self.right[target]
            # Row i of the map (a, b) is piece i of x: (A kron B) x = A X B^T, row by row.
            update = left @ (x.unflatten(-1, (left.shape[1], right.shape[1])) @ right.t())
            i = THIRDS.index(target)
            thirds[i] = thirds[i].add(update.flatten(-2), alpha=self.scale)
        return torch.cat(thirds, dim=-1)

    def affine(self) -> tuple[Tensor, None]:
        """The dense update ``(3 C, C)``."""
        zero = self.right[self.targets[0]].new_zeros(self.dim, self.dim, dtype=torch.float64)
        dense = {t: self.scale * torch.kron(self.left[t].double(), self.right[t].double()) for t in self.targets}
        return torch.cat([dense.get(t, zero) for t in THIRDS]), None


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class KronA(Method):
    """``W <- W0 + s (A kron B)`` for W_q and W_v; A (a, a), B (C / a, C / a).

    Args:
        size: a. At C = 768 the default makes B (24, 24).
        scale: s.
        targets: Any of ``q, k, v``.
    """

    size: int = 32
    scale: float = 1.0
    targets: tuple[str, ...] = ("q", "v")

    category = "reparameter"
    paper = "KronA: Parameter Efficient Tuning with Kronecker Adapter, 2212.10650"
    space = {"size": [8, 16, 32], "scale": [0.5, 1.0, 5.0]}
    mergeable = True
    unverified = "A language-model method: sizes and scale for vision are ours, the authors' code was not found."

    def check(self, host: Host) -> None:
        self.need_square(host)
        self.need_choice("targets", THIRDS)
        self.need_divisor("size", host)

    def build(self, host: Host) -> None:
        for block in host.blocks:
            block.place("qkv", "parallel", Kronecker(block.dim, self.targets, self.size, self.scale), "qkv")

    def count(self, host: Host) -> int:
        return len(self.targets) * sum(self.size**2 + (b.dim // self.size) ** 2 for b in host.blocks)
