"""CoLin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.core.contract.training import TrainingPass
from vpeft.registry import PEFT_METHODS


class ScaledFactors(nn.Module):
    """``(A diag(g) B)^T x + b`` with A (in, r), B (r, out); g (r) is given."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.empty(inputs, rank))
        self.right = nn.Parameter(torch.empty(rank, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    @torch.no_grad()
    def start(self, terms: int) -> Tensor:
        """A and B are the means of the first r singular vectors of ``terms`` random matrices (out, in), each drawn as a
        linear's weight, b as a linear's bias. Gives their singular values ``(terms, r)``.
        """
        (inputs, rank), outputs = self.left.shape, self.right.shape[1]
        weights = torch.empty(terms, outputs, inputs, device=self.left.device)
        for weight in weights:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        left, values, right = torch.linalg.svd(weights.mT, full_matrices=False)
        self.left.copy_(left[..., :rank].mean(0))
        self.right.copy_(right[:, :rank].mean(0))
        nn.init.uniform_(self.bias, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))
        return values[:, :rank]

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        return F.linear((x @ self.left) * gain, self.right.t(), self.bias)

    def distance(self) -> Tensor:
        """``||A^T A - I||_F^2 + ||B B^T - I||_F^2``."""
        grams = torch.stack((self.left.t() @ self.left, self.right @ self.right.t()))
        return (grams - torch.eye(len(self.right), dtype=grams.dtype, device=grams.device)).square().sum()


class CoLinAdapter(nn.Module):
    """One module on a stream ``(B, prefix + H*W, C)``; prefix tokens, off the map, skip the convolution.

    Args:
        dim: C.
        width: Width of the filtered code.
        rank: r of both factorised matrices.
        terms: How many g there are; both matrices have their sum.
    """

    def __init__(self, dim: int, width: int, rank: int, terms: int) -> None:
        super().__init__()
        self.down = ScaledFactors(dim, width, rank)
        self.up = ScaledFactors(width, dim, rank)
        self.gains = nn.Parameter(torch.empty(terms, rank))
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mix = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """g the singular values that start W_2; t zero, the convolution as torch starts it."""
        self.down.start(len(self.gains))
        self.gains.data.copy_(self.up.start(len(self.gains)))
        self.conv.reset_parameters()
        nn.init.zeros_(self.mix)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        gain = self.gains.sum(0)
        prefix, spatial = flow.split(self.down(x, gain))
        spatial = spatial + torch.sigmoid(self.mix)[:, None, None] * (self.conv(spatial) - spatial)
        return x + self.up(F.gelu(flow.join(prefix, spatial)), gain)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class CoLin(Method):
    """After each residual addition: ``y = W_1 x + b_1``, ``e = s DW3(y) + (1 - s) y`` with ``s = sigmoid(t)`` per
    channel, ``x <- x + W_2 GELU(e) + b_2``; ``W_1 = (A_1 diag(g) B_1)^T`` (width, C), ``W_2 = (A_2 diag(g) B_2)^T``
    (C, width), and g, shared by both, is the sum of ``terms`` vectors. Training adds
    ``loss_weight (||A^T A - I||^2 + ||B B^T - I||^2)`` over all matrices.

    The released code adds this loss with a weight of 0.5, once a term, so 2 with four of them, and back-propagates it
    inside the forward pass. The optimiser's hook of mmcv 1.x, which it trains with, clears the gradients between that
    and the task's: so its runs trained without. The configs here have ``loss_weight=0`` for that, the class the weight
    that is meant. With it short runs learn little, as Adam divides by what it remembers of a loss that starts in the
    hundreds: 36 against 84 % on sprite_count with the nano ViT, one seed.

    On a host with a class token, that token skips the convolution (our choice: it has no place on the map).

    Args:
        bottleneck: Width of the filtered code, the same in all stages.
        rank: r.
        terms: Vectors of which g is the sum.
        loss_weight: Of the auxiliary loss.
    """

    bottleneck: int = 100
    rank: int = 28
    terms: int = 4
    loss_weight: float = 2.0

    category = "adapter"
    paper = "1% > 100%: High-Efficiency Visual Adapter with Complex Linear Projection Optimization, 2602.10513"
    space = {"bottleneck": [32, 64, 100], "rank": [8, 16, 28], "loss_weight": [0.0, 2.0]}
    limits = {"loss_weight": (0, 1e6)}
    identity_at_start = False
    adds_losses = True
    reads_scores = False
    unverified = (
        "Equation, start, loss and settings are those of the released detection code; the paper's text was not at hand."
    )

    def check(self, host: Host) -> None:
        self.need_width("rank", host, [self.bottleneck, *(block.dim for block in host.blocks)])

    def build(self, host: Host) -> None:
        for block in host.blocks:
            for branch in block.units:
                module = CoLinAdapter(block.dim, self.bottleneck, self.rank, self.terms)
                block.place(f"{branch}_residual", "after", module, branch)

    def losses(self, host: Host, training: TrainingPass) -> dict[str, Tensor]:
        own = [block.placed(host.method_key)[branch] for block in host.blocks for branch in block.units]
        with torch.autocast(own[0].mix.device.type, enabled=False):  # squares of small differences
            total = sum(factors.distance() for module in own for factors in (module.down, module.up))
        return {"loss_orthogonality": self.loss_weight * total}

    def count(self, host: Host) -> int:
        r, d = self.rank, self.bottleneck
        shared = self.terms * r + (9 + 1 + 1) * d  # g; the convolution and t
        return sum(len(b.units) * (2 * r * (b.dim + d) + d + b.dim + shared) for b in host.blocks)
