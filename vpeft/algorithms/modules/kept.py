"""Linears and scales whose gradient is taken from what a block keeps anyway.

Autograd keeps what each operation read. Where what follows keeps the result too, or where the gradient follows from the
input of the frozen linear before, one of the two is enough. All of this is exact: the same values, by another path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vpeft.core.backbones.block import Block, full_name
from vpeft.core.backbones.sites.passes import in_program

#: Norms over the channels: a function of their input alone, which they keep.
NORMS = (
    "torch.nn.modules.normalization.LayerNorm",
    "torch.nn.modules.normalization.RMSNorm",
    "timm.layers.norm.LayerNorm",
    "timm.layers.norm.RmsNorm",
    "open_clip.transformer.LayerNorm",
)


class _LinearOfOutput(torch.autograd.Function):
    """``y A^T`` of ``y = W x + b``, of which ``x`` is kept: ``dA = (g^T x) W^T + g^T 1 b^T``."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor, *base: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, *base)
        return F.linear(y, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, matrix, bias = ctx.saved_tensors
        flat = grad.flatten(0, -2).t()
        to_weight = F.linear(flat @ x.to(grad.dtype).flatten(0, -2), matrix.to(grad.dtype))
        if bias is not None:
            to_weight = to_weight + torch.outer(flat.sum(1), bias.to(grad.dtype))
        return grad @ weight if ctx.needs_input_grad[0] else None, None, to_weight, None, None


def linear_of_output(y: Tensor, operation: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """``A y`` of a linear's output ``y = W x + b``, which keeps ``x`` for the gradient of A instead of ``y``.

    For a module whose method keeps ``x`` too; W may be of any kind that ``F.linear`` takes.

    Args:
        y: ``(..., out)``.
        operation: The linear; what is none has its output kept.
        x: ``(..., in)``, its input.
        weight: A ``(r, out)``.
    """
    if in_program() or type(operation) is not nn.Linear or not (torch.is_grad_enabled() and weight.requires_grad):
        return F.linear(y, weight)
    y, weight = as_autocast(y, weight)
    base = (t if t is None else t.detach() for t in (operation.weight, operation.bias))
    return _LinearOfOutput.apply(y, x.detach(), weight, *base)


class _Scaled(torch.autograd.Function):
    """``gain * y + shift``, of which the result is kept: ``y`` follows from it."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        z = torch.addcmul(shift, y, gain)
        ctx.save_for_backward(z, gain, shift)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, gain, shift = ctx.saved_tensors
        to_y = grad * gain if ctx.needs_input_grad[0] else None
        to_gain = (grad * (z - shift)).flatten(0, -2).sum(0) / gain
        return to_y, to_gain, grad.flatten(0, -2).sum(0)


class _ScaledMade(torch.autograd.Function):
    """``gain * y + shift`` with ``y = operation(x)``, of which ``x`` is kept."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, gain: Tensor, shift: Tensor, operation: nn.Module) -> Tensor:
        ctx.operation, ctx.autocast = operation, _autocast(y)
        ctx.save_for_backward(x, gain)
        return torch.addcmul(shift, y, gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain = ctx.saved_tensors
        with torch.no_grad(), torch.autocast(**ctx.autocast):
            y = ctx.operation.forward(x)
        to_y = grad * gain if ctx.needs_input_grad[0] else None
        return to_y, None, (grad * y.to(grad.dtype)).flatten(0, -2).sum(0), grad.flatten(0, -2).sum(0), None


def scale(y: Tensor, gain: Tensor, shift: Tensor, output_is_kept: bool = False) -> Tensor:
    """``gain * y + shift`` per channel.

    Args:
        y: ``(..., C)``.
        gain: ``(C,)``.
        shift: ``(C,)``.
        output_is_kept: What follows keeps the result for its own gradient (:func:`keeps_output`). Then that is kept for
            the gradient of the gain too, and not ``y``, as long as all gains are at least 1/8 and all shifts at most
            8: dividing by less would lose digits.
    """
    # Under autocast the operands differ in type, and addcmul would refuse.
    gain, shift = gain.to(y.dtype), shift.to(y.dtype)
    if output_is_kept and torch.is_grad_enabled() and gain.requires_grad and not (in_program() or y.is_meta):
        with torch.no_grad():
            safe = bool(((gain.abs() >= 1 / 8) & (shift.abs() <= 8)).all())
        if safe:
            return _Scaled.apply(y, gain, shift)
    return torch.addcmul(shift, y, gain)


def scale_of_norm(y: Tensor, operation: nn.Module, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor | None:
    """``gain * y + shift`` of a norm's output ``y``, which keeps not that but the norm's input ``x``, as the norm does.

    Args:
        y: ``(..., C)``.
        operation: The module that made it; None comes of what is none of :data:`NORMS`.
        x: ``(..., C)``, its input.
        gain: ``(C,)``.
        shift: ``(C,)``.
    """
    wanted = torch.is_grad_enabled() and gain.requires_grad and not in_program()
    if not wanted or full_name(type(operation)) not in NORMS or x.shape != y.shape:
        return None
    return _ScaledMade.apply(y, x.detach(), gain.to(y.dtype), shift.to(y.dtype), operation)


def keeps_output(block: Block, site: str) -> bool:
    """Whether what follows a site keeps its output: attention queries, keys and values, GELU its input."""
    act = block.sites["act"].module if "act" in block.sites else None
    return site == "qkv" or (site == "fc1" and not getattr(act, "inplace", False))


class _Again(torch.autograd.Function):
    """``function(*tensors)``, run again in backward."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.function, ctx.autocast = function, _autocast(tensors[0])
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        inputs = [t.detach().requires_grad_(need) for t, need in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad(), torch.autocast(**ctx.autocast):
            y = ctx.function(*inputs)
        found = iter(torch.autograd.grad(y, [t for t in inputs if t.requires_grad], grad))
        return None, *(next(found) if need else None for need in needed)


def rerun(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, which keeps these tensors alone and is run again in backward; nothing in it is random.

    Args:
        function: Gives one tensor; everything trained that it reads is among its arguments.
        tensors: Its arguments.
    """
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return _Again.apply(function, *tensors) if wanted and not in_program() else function(*tensors)


def _autocast(x: Tensor) -> dict[str, Any]:
    """The settings of autocast that are on here, for a second run in backward."""
    device = x.device.type
    return {
        "device_type": device,
        "enabled": torch.is_autocast_enabled(device),
        "dtype": torch.get_autocast_dtype(device),
    }


def as_autocast(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Operands of a product as autocast would cast them; backward runs without it."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or x.dtype is torch.float64:
        return (x, *others)
    return tuple(t.to(torch.get_autocast_dtype(device)) for t in (x, *others))
