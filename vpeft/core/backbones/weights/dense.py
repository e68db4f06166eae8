"""Which tensors of a file are plain values: torch's files may hold kinds that nearly no operation takes."""

from __future__ import annotations

import torch
from torch import Tensor


def not_dense(value: Tensor) -> str | None:
    """What a tensor is instead of dense values that its file holds, to go on after its name; None of one that is.

    ``expand`` makes a tensor of any size out of one number, which would fill the memory where it is copied.
    """
    if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_nested:
        return "is no dense tensor"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"of the shape {tuple(value.shape)} is larger than what is stored"
    return None
