"""Hydra."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.modules.kept import linear_of_output
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS


class LinearBranch(nn.Module):
    """``s (U Drop(D x + d) + u)``, D (r, in), U (out, r); ``residual`` adds the input."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float, drop: float, residual: bool) -> None:
        super().__init__()
        self.scale, self.residual = scale, residual
        self.down = nn.Linear(inputs, rank)
        self.drop = nn.Dropout(drop)
        self.up = nn.Linear(rank, outputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """D Xavier-uniform, all else zero."""
        nn.init.xavier_uniform_(self.down.weight)
        for param in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(param)

    def branch(self, code: Tensor) -> Tensor:
        """``U Drop(code + d) + u`` of the code ``D x``."""
        return self.up(self.drop(code + self.down.bias.to(code.dtype)))

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y`` plus the branch of ``x``."""
        return y.add(self.branch(F.linear(x, self.down.weight)), alpha=self.scale)

    def after_operation(self, operation: nn.Module, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """:meth:`forward` of the output ``y`` of an operation that keeps its input ``x`` for the other branch."""
        code = linear_of_output(y, operation, x, self.down.weight)
        return y.add(self.branch(code), alpha=self.scale)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return self.add_to(x, x, flow) if self.residual else self.branch(F.linear(x, self.down.weight)) * self.scale

    def affine(self) -> tuple[Tensor, Tensor]:
        """``s U D`` (plus the identity where it is residual) and ``s (U d + u)``."""
        up = self.scale * self.up.weight.double()
        matrix = up @ self.down.weight.double()
        if self.residual:
            matrix = matrix + matrix.new_ones(len(matrix)).diag()
        return matrix, up @ self.down.bias.double() + self.scale * self.up.bias.double()


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class Hydra(Method):
    """On proj and fc2, with ``z = W x + b``: ``z + s (P_u Drop(P_d x + p_d) + p_u) + s (S_u Drop(S_d z + s_d) + s_u)``,
    a parallel branch on the input and a sequential one on the output, both linear.

    Args:
        rank: r of both branches.
        scale: s; per task in the authors' configs.
        drop: Dropout on the codes.
    """

    rank: int = 2
    scale: float = 1.0
    drop: float = 0.2

    category = "reparameter"
    paper = "Hydra: Multi-head Low-rank Adaptation for Parameter Efficient Fine-tuning, 2309.06922"
    space = {"rank": [1, 2, 4, 8], "scale": [0.5, 1.0, 5.0], "drop": [0.0, 0.2]}
    mergeable = True

    def check(self, host: Host) -> None:
        self.need_width("rank", host)

    def build(self, host: Host) -> None:
        for block in host.blocks:
            for name, _ in block.linears("proj", "fc2"):
                inputs, outputs = block.size(name)
                sequential = LinearBranch(outputs, outputs, self.rank, self.scale, self.drop, residual=True)
                parallel = LinearBranch(inputs, outputs, self.rank, self.scale, self.drop, residual=False)
                # In this order: the sequential branch reads the linear's own output.
                block.place(name, "after", sequential, f"{name}_sequential")
                block.place(name, "parallel", parallel, f"{name}_parallel")

    def count(self, host: Host) -> int:
        r = self.rank
        ends = [block.size(name) for block in host.blocks for name, _ in block.linears("proj", "fc2")]
        # A sequential branch from outputs to outputs, and a parallel one from the inputs.
        return sum(3 * outputs * r + inputs * r + 2 * (r + outputs) for inputs, outputs in ends)
