"""AdapterBias."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS

READS = ("hidden", "output")


class TokenShift(nn.Module):
    """``(a^T x + c) v`` with v (C) of its own; ``residual`` adds x.

    Args:
        dim: C.
        alpha: a (1, inputs) and c: the linear that gives every token its number.
        shared: alpha is referred to, not owned.
        residual: Whether x is added.
    """

    def __init__(self, dim: int, alpha: nn.Linear, shared: bool, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.shared = (alpha,) if shared else ()  # in a tuple, so that torch does not register it a second time
        if not shared:
            self.alpha = alpha
        self.vector = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """v zero, its own alpha as torch's linear."""
        nn.init.zeros_(self.vector)
        for linear in self.children():
            linear.reset_parameters()

    @property
    def weigh(self) -> nn.Linear:
        """alpha, its own or the shared one."""
        return self.shared[0] if self.shared else self.alpha

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        shift = self.weigh(x) * self.vector
        return x + shift if self.residual else shift

    def affine(self) -> tuple[Tensor, Tensor]:
        """``v a^T`` (plus the identity where it is residual) and ``c v``: of rank one."""
        alpha, vector = self.weigh, self.vector.double()
        matrix = torch.outer(vector, alpha.weight.double()[0])
        if self.residual:
            matrix = matrix + matrix.new_ones(len(matrix)).diag()
        return matrix, alpha.bias.double() * vector


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class AdapterBias(Method):
    """``y = W x + b + (a^T h + c) v`` at the last linear of the MLP: one vector v (C) a block, added to every token as
    often as the token says. h is x, the MLP's hidden layer, as the authors' code has it, or y itself. Both are linear,
    an update of rank one with a bias, so it merges: ``W + v a^T``, ``b + c v``.

    The authors' code (BERT) also trains the norm behind each MLP, which a pre-norm block does not have; here norms stay
    frozen.

    Args:
        reads: ``hidden``, or ``output`` for an alpha of C instead of the MLP's width.
        shared_alpha: All blocks of one width have the same a and c, an option of the authors' script.
    """

    reads: str = "hidden"
    shared_alpha: bool = False

    category = "adapter"
    paper = (
        "AdapterBias: Parameter-efficient Token-dependent Representation Shift for Adapters in NLP Tasks, Findings of "
        "NAACL 2022"
    )
    space = {"reads": list(READS), "shared_alpha": [False, True]}
    mergeable = True
    unverified = (
        "Place, start and what alpha reads are those of the authors' code for BERT; the paper's equation and its "
        "counts were not at hand, and there is no version of theirs for images."
    )

    def check(self, host: Host) -> None:
        self.need_choice("reads", READS)

    def inputs(self, block: Block) -> int:
        """Numbers that alpha reads of a token."""
        return block.size("fc2")[0 if self.reads == "hidden" else 1]

    def build(self, host: Host) -> None:
        shared: dict[int, nn.Linear] = {}
        residual = self.reads == "output"
        for block in host.blocks:
            inputs = self.inputs(block)
            alpha = shared.get(inputs) or nn.Linear(inputs, 1)
            if self.shared_alpha and inputs not in shared:
                shared[inputs] = alpha
                host.keep(alpha, f"alpha{inputs}")
            module = TokenShift(block.dim, alpha, self.shared_alpha, residual)
            block.place("fc2", "after" if residual else "parallel", module, "shift")

    def count(self, host: Host) -> int:
        inputs = [self.inputs(block) for block in host.blocks]
        return sum(n + 1 for n in (set(inputs) if self.shared_alpha else inputs)) + sum(b.dim for b in host.blocks)
