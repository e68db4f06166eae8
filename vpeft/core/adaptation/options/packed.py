"""``bits``: a method's matrices in 1 to 4 bits, in the forward pass and in the adapter file.

In the forward pass a matrix W stands for ``W' = q(w) s + m``, ``w = (W - m) / (s + 1e-5)``, m and s its mean and
standard deviation over all entries, q the nearest of ``2^bits`` levels. The gradient takes q for the identity and goes
through m and s. (Bi-AdaptFormer and Bi-LoRA, "Revisiting the Parameter Efficiency of Adapters from the Perspective of
Precision Redundancy", ICCV 2023.)

The levels are those of least error for a standard normal variable. The authors' released code takes the median of each
cell, which is the least absolute error (1 bit: +-0.674); the least squared error (1 bit: +-0.798) is the other form.

A matrix that takes no more than ``2^bits`` values is its own quantisation outside training: so one that was read from a
file gives what it gave before. A matrix that starts constant starts as a truncated normal of std 0.001 around that
value, as the authors' up projections do: its spread would stay 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import NormalDist
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vpeft.errors import UserError

#: Which error the levels make least.
ERRORS = ("absolute", "squared")
#: The options that leave matrices as they are.
UNPACKED: dict[str, Any] = {"bits": None, "bits_error": ERRORS[0]}
#: Added to the spread that a matrix is divided by.
EPS = 1e-5
#: Spread of the start of a matrix that would start constant, cut at two of it.
START = 0.001


@functools.cache
def levels(bits: int, error: str = "absolute") -> tuple[float, ...]:
    """The ``2^bits`` levels of least error for a standard normal variable, from the lowest.

    Args:
        bits: 1 to 4.
        error: ``absolute`` (each level the median of its cell) or ``squared`` (its mean).
    """
    normal, count = NormalDist(), 2**bits
    found = [normal.inv_cdf((i + 0.5) / count) for i in range(count)]
    for _ in range(10_000):
        edges = [(a + b) / 2 for a, b in pairwise(found)]
        below = [0.0, *map(normal.cdf, edges), 1.0]
        density = [0.0, *map(normal.pdf, edges), 0.0]
        cells = range(count)
        if error == "absolute":
            new = [normal.inv_cdf((below[i] + below[i + 1]) / 2) for i in cells]
        else:
            new = [(density[i] - density[i + 1]) / (below[i + 1] - below[i]) for i in cells]
        change, found = max(abs(a - b) for a, b in zip(found, new, strict=True)), new
        if change < 1e-13:
            break
    return tuple(found)


def quantised(matrix: Tensor, bits: int, error: str = "absolute") -> Tensor:
    """A matrix in ``2^bits`` values, with the gradient of the authors.

    Everything is computed in float64, so that one matrix gives the same values in every precision and on every device.
    """
    wide = matrix.double()
    mean, spread = wide.mean(), wide.std()
    normal = (wide - mean) / (spread + EPS)
    table = torch.tensor(levels(bits, error), dtype=torch.float64, device=matrix.device)
    nearest = table[torch.bucketize(normal.detach(), (table[1:] + table[:-1]) / 2)]
    return ((nearest + (normal - normal.detach())) * spread + mean).to(matrix.dtype)


def values_of(matrix: Tensor, bits: int, error: str = "absolute") -> Tensor:
    """The same outside training, where a matrix of no more than ``2^bits`` values stays as it is."""
    ordered = matrix.detach().flatten().sort().values
    few = (ordered[1:] != ordered[:-1]).sum() < 2**bits
    return torch.where(few, matrix, quantised(matrix, bits, error))


def is_matrix(param: Tensor) -> bool:
    """Whether it has two extents or more; vectors stay as they are, and what has no more entries than 4 bits values."""
    return param.dim() > 1 and param.numel() > 16


class Packed:
    """Mixin of a module whose matrices are read in ``2^bits`` values; the parameters themselves keep their names."""

    peft_plain: ClassVar[type]
    peft_packed: ClassVar[tuple[tuple[str, ...], int, str]]

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__  # object has it from 3.11 on
        return _empty, (self.peft_plain, *self.peft_packed), state


def seen(part: Packed, name: str) -> Tensor:
    """A matrix as the forward pass sees it."""
    matrix, (_, bits, error) = part._parameters[name], part.peft_packed
    learns = part.training and torch.is_grad_enabled()
    return quantised(matrix, bits, error) if learns else values_of(matrix, bits, error)


def stored(part: Packed, name: str) -> Tensor:
    """The same outside training, as a file holds it."""
    return values_of(part._parameters[name].detach(), *part.peft_packed[1:])


@functools.cache
def _packed_class(cls: type, names: tuple[str, ...], bits: int, error: str) -> type:
    """The subclass of ``cls`` that reads the matrices ``names`` so; one class each."""
    members: dict[str, Any] = {"__module__": cls.__module__, "peft_plain": cls, "peft_packed": (names, bits, error)}
    members |= {name: property(_reader(name)) for name in names}
    return type(cls.__name__, (Packed, cls), members)


def _reader(name: str) -> Callable[[Packed], Tensor]:
    def read(module: Packed) -> Tensor:
        return seen(module, name)

    return read


def _empty(cls: type, names: tuple[str, ...], bits: int, error: str) -> nn.Module:
    made = _packed_class(cls, names, bits, error)
    return made.__new__(made)


def check_bits(bits: int | None, error: str, method: str) -> None:
    """Refuse what says how bits are chosen where there are none.

    Raises:
        UserError: It is asked for.
    """
    if bits is None and error != ERRORS[0]:
        raise UserError(f"{method}: bits_error={error!r} is of bits, which is not set: set bits, or leave it out.")


def pack(modules: Iterable[nn.Module], bits: int, error: str, method: str) -> None:
    """Let the matrices of a method's modules be read in ``2^bits`` values.

    Args:
        modules: All that the method has made.
        bits: 1 to 4.
        error: Which error the levels make least.
        method: Its name, for messages.

    Raises:
        UserError: It has no matrices, or reads them where this does not reach; nothing is changed then.
    """
    modules = list(modules)
    found = {part: _matrices(part) for module in modules for part in module.modules()}
    own = {id(part._parameters[name]) for part, names in found.items() for name in names}
    if not own:
        raise UserError(f"{method}: bits={bits} is for matrices, and it trains none of its own: leave bits out.")
    for part in found:
        inside = {key: value for key, value in vars(part).items() if key not in ("_parameters", "_modules", "_buffers")}
        if any(id(tensor) in own for tensor in _tensors(inside)):
            raise UserError(
                f"{method}: bits={bits} does not reach its {type(part).__name__}, which holds matrices outside the "
                "parameters of a module: leave bits out."
            )
    for part, names in found.items():
        if names:
            part.__class__ = _packed_class(type(part), names, bits, error)
    for module in modules:
        spread_start(module)


def _matrices(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, param in module._parameters.items() if param is not None and is_matrix(param))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


def packed_parts(module: nn.Module) -> Iterator[Packed]:
    """The parts of a module whose matrices are read so."""
    return (part for part in module.modules() if isinstance(part, Packed))


@contextmanager
def unpacked(module: nn.Module) -> Iterator[None]:
    """Within the context a module's matrices are read as they are, and can be written in place."""
    parts = [(part, type(part)) for part in packed_parts(module)]
    for part, _ in parts:
        part.__class__ = part.peft_plain
    try:
        yield
    finally:
        for part, cls in parts:
            part.__class__ = cls


@torch.no_grad()
def spread_start(module: nn.Module) -> None:
    """Give every constant matrix that is packed a spread around its value."""
    for part in packed_parts(module):
        for name in part.peft_packed[0]:
            matrix = part._parameters[name]
            if not matrix.is_meta and (matrix == matrix.flatten()[0]).all():
                middle = matrix.clone()
                nn.init.trunc_normal_(matrix, std=START, a=-2 * START, b=2 * START).add_(middle)


def reset(module: nn.Module) -> None:
    """``module.reset_parameters()``, with what its packed matrices need of a start."""
    with unpacked(module):
        module.reset_parameters()
    spread_start(module)
