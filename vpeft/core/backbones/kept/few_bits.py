"""Frozen matrices in 8 or 4 bits, and how anything reads them.

``int8``: one scale a row, ``W = s q`` with ``q`` from -127 to 127. ``int4``: one scale and one zero point for so many
neighbours of a row (64, or 32), ``W = s (q - z)`` with ``q`` from 0 to 15, two to a byte. Scales are float32. These
are the codes that torchao's ``choose_qparams_affine`` and ``quantize_affine`` give (symmetric; asymmetric, zero kept),
in plain torch: torchao itself is not needed, and where it is installed transformers imports it each time.

A matrix stays one tensor of its shape and precision, so that modules, files and methods find it where it was. A linear
(``F.linear``) keeps the few bits for the backward pass and reads the matrix again there. Any other operation reads it
whole, as :func:`dense` does; what is written to it is quantised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_map

from vpeft.errors import UserError

#: Bits by name.
BITS = {"int8": 8, "int4": 4}
#: Neighbours of a row that share a scale in int4: the first that divides the row.
GROUPS = (64, 32)
#: The least scale, of a row of zeros.
_LEAST = 1e-12
_PARTS = ("codes", "scale", "zero", "whole")
#: Digests of a tensor by precision.
Digests = Callable[[Tensor], dict[str, str]]
_aten = torch.ops.aten


class FewBits(Tensor):
    """A matrix ``(out, in)`` in few bits; made by :func:`quantise`.

    Attributes:
        kind: ``int8`` or ``int4``.
        codes: ``(out, in)`` of int8, or ``(out, in / 2)`` of uint8.
        scale: ``(out, groups)``.
        zero: ``(out, groups)`` of uint8; None in int8.
        whole: The matrix itself, while something is merged into it; None otherwise.
        digests: Gives the digests of values by precision, as the fingerprint of a base has them; None without.
        origin: Those of the values that were quantised.
    """

    kind: str
    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    whole: Tensor | None
    digests: Digests | None
    origin: dict[str, str]

    @staticmethod
    def __new__(
        cls: type[FewBits], shape: torch.Size, dtype: torch.dtype, device: torch.device, kind: str, **state: Any
    ) -> FewBits:
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        made.__dict__.update(kind=kind, **state)
        return made

    def __init__(self, *args: Any, **state: Any) -> None:
        pass

    def __repr__(self, **_: Any) -> str:
        return f"FewBits({self.kind}, {tuple(self.shape)}, {self.dtype}, {self.device})"

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """The matrix, in its own precision or another."""
        if self.whole is not None:
            return self.whole.to(dtype or self.dtype)
        if self.kind == "int8":
            values = self.codes.float() * self.scale
        else:
            codes = torch.stack((self.codes & 15, self.codes >> 4), -1).view(len(self.codes), self.scale.shape[1], -1)
            values = ((codes.float() - self.zero.unsqueeze(-1)) * self.scale.unsqueeze(-1)).flatten(1)
        return values.to(dtype or self.dtype)

    def write(self, values: Tensor) -> None:
        """Take other values: as they are where something is merged, quantised otherwise."""
        if isinstance(values, FewBits):
            self.__dict__.update(_mapped(values, lambda part: part.to(self.device, copy=True)))
        elif self.whole is not None:
            self.whole = values.to(self.whole, copy=True)
        else:
            made = quantise(values.to(self.device), self.kind, self.digests)
            self.__dict__.update({part: getattr(made, part) for part in (*_PARTS, "origin")})

    def stored_bytes(self) -> int:
        """Bytes that it takes."""
        return sum(part.nbytes for name in _PARTS if (part := getattr(self, name)) is not None)

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return [name for name in _PARTS if getattr(self, name) is not None], (
            self.kind,
            self.digests,
            self.origin,
            self.dtype,
        )

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], state: Any, size: torch.Size, stride: Any) -> FewBits:
        kind, digests, origin, dtype = state
        rest = {name: parts.get(name) for name in _PARTS}
        return FewBits(size, dtype, parts["scale"].device, kind, digests=digests, origin=origin, **rest)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        own = args[0] if args and isinstance(args[0], FewBits) else None
        if own is not None and func in (_aten.detach.default, _aten.alias.default):
            if own.whole is not None:  # as a state dict holds it: what is merged is a plain weight
                return own.whole
            return _like(own, own.dtype, lambda part: part)
        if own is not None and func is _aten.clone.default:
            return _like(own, own.dtype, torch.clone)
        if own is not None and func is _aten._to_copy.default:
            dtype, device = kwargs.get("dtype") or own.dtype, kwargs.get("device") or own.device
            if dtype.is_floating_point:
                return _like(own, dtype, lambda part: part.to(device, copy=True))
        if own is not None and func is _aten.copy_.default:
            own.write(args[1])
            return own
        plain = [dense(arg) for arg in args]
        out = func(*tree_map(dense, plain), **tree_map(dense, kwargs))
        if own is not None and func._schema.is_mutable:
            own.write(plain[0])
            return own
        return out


def dense(value: Any) -> Any:
    """A tensor as it is read: a matrix of few bits whole, everything else as it is."""
    return value.read() if isinstance(value, FewBits) else value


def group_of(width: int) -> int | None:
    """How many neighbours share a scale in int4 where a row is ``width`` wide; None where it cannot be cut."""
    return next((size for size in GROUPS if width % size == 0), None)


def quantise(values: Tensor, kind: str, digests: Digests | None = None) -> FewBits:
    """A matrix ``(out, in)`` in few bits, by rounding to the nearest.

    Args:
        values: The matrix.
        kind: ``int8``, or ``int4`` where :func:`group_of` has an answer.
        digests: Gives the digests of the values.
    """
    wide, zero = values.detach().float(), None
    if kind == "int8":
        scale = (wide.abs().amax(1, keepdim=True) / 127).clamp(min=_LEAST)
        codes = (wide / scale).round().to(torch.int8)
    else:
        groups = wide.unflatten(1, (-1, group_of(wide.shape[1])))
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scale = ((high - low) / 15).clamp(min=_LEAST)
        zero = (-low / scale).round()
        codes = ((groups / scale.unsqueeze(-1)).round() + zero.unsqueeze(-1)).clamp(0, 15).flatten(1).to(torch.uint8)
        codes, zero = codes[:, ::2] | codes[:, 1::2] << 4, zero.to(torch.uint8)
    state = {"codes": codes, "scale": scale, "zero": zero, "whole": None}
    state |= {"digests": digests, "origin": digests(values) if digests else {}}
    return FewBits(values.shape, values.dtype, values.device, kind, **state)


def check_replaceable(params: Iterable[nn.Parameter]) -> None:
    """Make sure that parameters can be replaced (:func:`replace`), before any of them is.

    Raises:
        UserError: A graph still holds one.
    """
    for param in params:
        other = nn.Parameter(torch.empty(0), requires_grad=False)
        try:
            torch.utils.swap_tensors(param, other)
        except RuntimeError as error:
            raise UserError(
                "a weight of the base is still held by a graph: let go of earlier outputs and losses (del), or run "
                "them under torch.no_grad(), before base_dtype changes how the base is kept."
            ) from error
        torch.utils.swap_tensors(param, other)


def replace(param: nn.Parameter, value: Tensor) -> None:
    """Let a frozen parameter be another tensor, wherever it is known."""
    torch.utils.swap_tensors(param, nn.Parameter(value, requires_grad=False))


class _FrozenLinear(torch.autograd.Function):
    """``x W^T + b`` for ``x (N, in)``, that keeps ``W`` in its few bits for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: FewBits, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight.read(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_x, _, of_bias = ctx.needs_input_grad
        return grad @ ctx.weight.read(grad.dtype) if of_x else None, None, grad.sum(0) if of_bias else None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not isinstance(weight, FewBits):
        return F.linear(dense(input), weight, dense(bias))
    if torch.is_autocast_enabled(input.device.type) and input.is_floating_point():
        dtype = torch.get_autocast_dtype(input.device.type)
        input, bias = input.to(dtype), None if bias is None else bias.to(dtype)
    rows = _FrozenLinear.apply(input.reshape(-1, input.shape[-1]), weight, bias)
    return rows.view(*input.shape[:-1], len(weight))


def _mapped(own: FewBits, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    parts = {name: getattr(own, name) for name in _PARTS}
    return {
        **{k: None if v is None else change(v) for k, v in parts.items()},
        "digests": own.digests,
        "origin": own.origin,
    }


def _like(own: FewBits, dtype: torch.dtype, change: Callable[[Tensor], Tensor]) -> FewBits:
    state = _mapped(own, change)
    if state["whole"] is not None:
        state["whole"] = state["whole"].to(dtype)
    return FewBits(own.shape, dtype, state["scale"].device, own.kind, **state)
