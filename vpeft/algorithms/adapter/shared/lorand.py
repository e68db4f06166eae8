"""LoRand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.modules.kept import rerun
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import STARTS, Method
from vpeft.registry import PEFT_METHODS


class Synthesised(nn.Module):
    """A linear with the matrix ``(sum_i P_i K_i Q_i)^T``, P_i (in, beta), K_i (beta, beta), Q_i (beta, out).

    Args:
        inputs: in.
        outputs: out.
        alpha: Terms.
        beta: Their rank.
        owner: Whose K this one uses instead of its own; referred to, not owned.
    """

    def __init__(self, inputs: int, outputs: int, alpha: int, beta: int, owner: Synthesised | None = None) -> None:
        super().__init__()
        self.owner = (owner,)  # in a tuple, so that torch does not register it a second time
        self.left = nn.Parameter(torch.empty(alpha, inputs, beta))
        if owner is None:
            self.kernel = nn.Parameter(torch.empty(alpha, beta, beta))
        self.right = nn.Parameter(torch.empty(alpha, beta, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def reset_parameters(self, zero: bool = False) -> None:
        """All factors Kaiming-uniform with a = sqrt 5, the bias as a plain linear's; ``zero`` clears Q and bias."""
        for factors in (self.left, *(() if self.owner[0] else (self.kernel,)), self.right):
            for factor in factors.data:
                nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
        bound = 1 / math.sqrt(self.left.shape[1])
        nn.init.uniform_(self.bias, -bound, bound)
        if zero:
            nn.init.zeros_(self.right)
            nn.init.zeros_(self.bias)

    def factors(self) -> tuple[Tensor, Tensor]:
        """All P side by side ``(in, alpha beta)``, and all K Q below one another; their product is not needed."""
        return self.left.transpose(0, 1).flatten(1), ((self.owner[0] or self).kernel @ self.right).flatten(0, 1)


def _through_hidden(code: Tensor, second: Tensor, bias: Tensor, third: Tensor) -> Tensor:
    return F.gelu(F.linear(code, second.t(), bias)) @ third


class LoRandAdapter(nn.Module):
    """``W_up GELU(W_dn x + b) + b'`` with synthesised matrices; ``residual`` adds x.

    Args:
        size: C, hidden width, alpha and beta.
        shared_kernel: Both matrices have the same K.
        identity: Start as the identity.
        residual: Add x.
    """

    def __init__(
        self, size: tuple[int, int, int, int], shared_kernel: bool, identity: bool, residual: bool = True
    ) -> None:
        super().__init__()
        dim, width, alpha, beta = size
        self.identity, self.residual = identity, residual
        self.down = Synthesised(dim, width, alpha, beta)
        self.up = Synthesised(width, dim, alpha, beta, self.down if shared_kernel else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start both matrices; with ``identity`` the second is zero."""
        self.down.reset_parameters()
        self.up.reset_parameters(zero=self.identity)

    def forward(self, x: Tensor, flow: Flow | None = None) -> Tensor:
        (first, second), (third, fourth) = self.down.factors(), self.up.factors()
        # The hidden layer is made again of the code: it would be kept before and behind GELU.
        code = rerun(_through_hidden, x @ first, second, self.down.bias, third)
        y = F.linear(code, fourth.t(), self.up.bias)
        return x + y if self.residual else y

    @staticmethod
    def count(dim: int, width: int, alpha: int, beta: int, shared_kernel: bool) -> int:
        """``2 alpha beta (C + C / f) + 2 alpha beta^2 + C / f + C``; with a shared K ``alpha beta^2`` less."""
        kernels = 1 if shared_kernel else 2
        return 2 * alpha * beta * (dim + width) + kernels * alpha * beta**2 + width + dim


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class LoRand(Method):
    """``A(x) = x + W_up GELU(W_dn x + b) + b'`` on the output of each branch, behind DropPath and before the residual;
    ``W = (sum_{i=1..alpha} P_i K_i Q_i)^T``, P_i (in, beta), K_i (beta, beta), Q_i (beta, out).

    Args:
        alpha: Terms of the sum. The paper's "+" has 4.
        beta: Rank of a term. "++" has alpha 4, beta 16.
        reduction: f; the hidden width is C / f.
        shared_kernel: W_dn and W_up have the same K. Inferred: with it both published counts fit (1.197 and 1.793 M on
            Swin-B and Swin-L for 1.20 and 1.79), with two K 1.203 and 1.799 M.
        init: ``official`` draws all factors, so it does not start as the frozen host; ``identity`` starts the last
            factor and its bias at zero.
    """

    alpha: int = 2
    beta: int = 8
    reduction: int = 2
    shared_kernel: bool = True
    init: str = "official"

    category = "adapter"
    paper = "1% VS 100%: Parameter-Efficient Low Rank Adapter for Dense Predictions, CVPR 2023"
    space = {"alpha": [1, 2, 4], "beta": [4, 8, 16]}
    identity_at_start = False
    unverified = (
        "LoRand's own repository was not found; equation and start follow a later release of the first author. That "
        "the two matrices share K is inferred from the published counts."
    )

    def check(self, host: Host) -> None:
        self.need_choice("init", STARTS)
        self.need_divisor("reduction", host)

    def build(self, host: Host) -> None:
        for block in host.blocks:
            for branch in block.units:
                size = (block.dim, block.dim // self.reduction, self.alpha, self.beta)
                module = LoRandAdapter(size, self.shared_kernel, self.init == "identity")
                block.place(f"{branch}_branch", "late", module, branch)

    def count(self, host: Host) -> int:
        own = (self.alpha, self.beta, self.shared_kernel)
        return sum(len(b.units) * LoRandAdapter.count(b.dim, b.dim // self.reduction, *own) for b in host.blocks)
