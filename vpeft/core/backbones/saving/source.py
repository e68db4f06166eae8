"""Tensors that are made again in the backward pass from what is kept anyway.

The output of an activation follows from its input, which the activation keeps for its own gradient; the output of a
norm likewise. What is trained behind them, and would keep the output too, then keeps nothing. What is made again is
bit-equal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._autograd import _make_saved_tensor, _top_saved_tensors_default_hooks
from torch.autograd.graph import saved_tensors_hooks

from vpeft.core.backbones.sites.passes import in_program

#: Attribute of a tensor that says how it is made again.
_MADE = "vpeft_made"


class Made(NamedTuple):
    """How a tensor was made: by ``operation``, elementwise or along the channels, of ``source``, which is kept."""

    operation: Callable[[Tensor], Tensor]
    source: Tensor
    versions: tuple[int, int]


def mark_made(y: Tensor, operation: Callable[[Tensor], Tensor], source: Tensor) -> Tensor:
    """Let a tensor say how it is made again; gives the tensor."""
    if in_program():  # what a program keeps is the compiler's to choose
        return y
    if type(y) is Tensor and y.dtype is source.dtype and y.requires_grad and y.data_ptr() != source.data_ptr():
        setattr(y, _MADE, Made(operation, source, (y._version, source._version)))
    return y


def _made(x: Any) -> Made | None:
    """How a tensor was made, where neither it nor its source was written into since."""
    made: Made | None = getattr(x, _MADE, None)
    return made if made is not None and made.versions == (x._version, made.source._version) else None


class Source:
    """A tensor as the graph holds it: itself, or what it is made of.

    It is held as autograd holds what it saves, so that hooks on saved tensors around it (activation checkpointing,
    offloading, measuring) see it.
    """

    def __init__(self, x: Tensor) -> None:
        made = _made(x)
        self.operation = None if made is None else made.operation
        self.saved = _make_saved_tensor(x if made is None else made.source, is_output=False)
        self.place, self.count = x.data_ptr(), x.numel()
        self.shape = x.shape
        whole = x.storage_offset() == 0 and x.untyped_storage().nbytes() == x.numel() * x.element_size()
        self.strides = x.stride() if whole else None

    def holds(self, t: Tensor) -> bool:
        """Whether ``t`` is the tensor, in any shape."""
        return self.strides is not None and t.data_ptr() == self.place and t.numel() == self.count

    def value(self) -> Tensor:
        """The tensor, without a graph."""
        x = self.saved.unpack().detach()
        if self.operation is None:
            return x
        with torch.no_grad():
            return self.operation(x)


class Keeping:
    """What the hooks on saved tensors do with a tensor that is kept: what they did around them."""

    def __init__(self) -> None:
        self.outer = _top_saved_tensors_default_hooks(True)

    def keep(self, t: Tensor) -> Any:
        return t.detach() if self.outer is None else self.outer[0](t)

    def give(self, kept: Any) -> Tensor:
        return kept if self.outer is None else self.outer[1](kept)


@contextlib.contextmanager
def made_again(x: Any) -> Iterator[None]:
    """Within the context, what would keep ``x`` keeps what it is made of, where ``x`` says how it is made."""
    if in_program() or _made(x) is None or not torch.is_grad_enabled():
        yield
        return
    source, keeping = Source(x), Keeping()

    def pack(t: Tensor) -> Any:
        return (t.shape, t.stride()) if source.holds(t) else [keeping.keep(t)]

    def unpack(kept: Any) -> Tensor:
        return source.value().as_strided(*kept) if isinstance(kept, tuple) else keeping.give(kept[0])

    with saved_tensors_hooks(pack, unpack):
        yield
