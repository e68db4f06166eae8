"""Operations of the last block that run for the tokens alone that are read behind it.

A head that reads a class token sees nothing of the map's tokens in the last block but as keys and values of its
attention; what its MLP makes of them leads nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.sites.passes import Passes, in_program
from vpeft.errors import UserError


class _Ahead(torch.autograd.Function):
    """Values ``(B, n, C)`` as the first n of N tokens, the others zero; a gradient of these is refused."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, tokens: int) -> Tensor:
        ctx.count = part.shape[1]
        whole = part.new_zeros(len(part), tokens, *part.shape[2:])
        whole[:, : ctx.count] = part
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if grad[:, ctx.count :].any():
            raise UserError(
                "skip_unread: a loss reads tokens of the map behind the last block, which did not pass its MLP: leave "
                "skip_unread out."
            )
        return grad[:, : ctx.count], None


def run_read(operation: Callable[[Tensor], Tensor], x: Tensor, passes: Passes, index: int, root: nn.Module) -> Tensor:
    """``operation(x)``, in training of the tokens ahead of the map alone: zero for those of the map.

    Args:
        operation: From a stream to one like it, each token by itself.
        x: ``(B, N, C)``.
        passes: The host's passes.
        index: Index of the block.
        root: The backbone, whose mode says whether it trains.

    Raises:
        UserError: In the backward pass, where a token of the map has been read.
    """
    if not (root.training and torch.is_grad_enabled()) or in_program():
        return operation(x)
    ahead = operation(x[:, : passes.at(index, x).prefix])
    return _Ahead.apply(ahead, x.shape[1])
