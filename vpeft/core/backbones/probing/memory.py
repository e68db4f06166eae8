"""Which tensors lie in the memory of others."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Memory:
    """The memory of some tensors.

    Args:
        tensors: The tensors, or None; those without values (on the meta device) lie nowhere.
    """

    def __init__(self, tensors: Iterable[Tensor | None]) -> None:
        self._spans: dict[int, list[tuple[int, int, Tensor]]] = {}
        for tensor in {id(one): one for one in tensors if one is not None}.values():
            if (span := _span(tensor)) is not None:
                storage, start, end = span
                self._spans.setdefault(storage, []).append((start, end, tensor))

    def overlapping(self, tensor: Tensor) -> list[Tensor]:
        """Those that share memory with ``tensor`` and are not it."""
        span = _span(tensor)
        if span is None:
            return []
        storage, start, end = span
        return [one for a, b, one in self._spans.get(storage, ()) if one is not tensor and a < end and start < b]


def _span(tensor: Tensor) -> tuple[int, int, int] | None:
    """Storage, and first and last byte, of a plain tensor with values; None for others."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.numel() == 0:
        return None
    try:
        storage, start = tensor.untyped_storage().data_ptr(), tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return None
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (storage, start, start + (last + 1) * tensor.element_size()) if storage else None
