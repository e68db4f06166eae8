"""What campaigns compare, and what they draw from."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch


def digest(value: Any) -> str:
    """Names a value: tensors and arrays by all their bits."""
    out = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous().numpy()
        if isinstance(value, np.ndarray):
            out.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        elif isinstance(value, dict):
            out.update(b"{")
            for key in sorted(value, key=repr):
                out.update(repr(key).encode("utf-8", "surrogatepass"))
                add(value[key])
        elif isinstance(value, (list, tuple)):
            out.update(f"[{len(value)}".encode())
            for one in value:
                add(one)
        else:
            out.update(repr(value).encode("utf-8", "surrogatepass"))

    add(value)
    return out.hexdigest()


def seeded(*parts: Any) -> random.Random:
    """A generator that depends on nothing but its parts."""
    return random.Random(repr(parts))
