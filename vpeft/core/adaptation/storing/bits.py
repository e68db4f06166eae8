"""Matrices of few values (:mod:`vpeft.core.adaptation.options.packed`) as they stand in an adapter file.

All of a file lie in two tensors: :data:`CODES`, which value each entry takes, lowest bit first, each matrix from a byte
of its own; and :data:`LEVELS`, the values that each matrix takes, in order: two of 1 bit, up to 16 of 4. The file's
``packed`` names the matrices in the same order: key, type, shape, bits, and how many values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpeft.errors import UserError

CODES, LEVELS = "packed.codes", "packed.levels"
#: A row of a file's ``packed``.
ROW_SCHEMA = {
    "type": "array",
    "prefixItems": [
        {"type": "string"},
        {"enum": ["float64", "float32", "float16", "bfloat16"]},
        {"type": "array", "items": {"type": "integer", "minimum": 1}},
        {"type": "integer", "minimum": 1, "maximum": 4},
        {"type": "integer", "minimum": 1, "maximum": 16},
    ],
    "minItems": 5,
    "items": False,
}


def packed_bytes(matrix: Tensor, bits: int) -> int:
    """What a matrix takes: its codes, and all of its ``2^bits`` values."""
    return math.ceil(matrix.numel() * bits / 8) + 2**bits * (8 if matrix.dtype == torch.float64 else 4)


def pack_tensors(
    tensors: Mapping[str, Tensor], values: Mapping[str, tuple[Tensor, int]]
) -> tuple[dict[str, Tensor], list[list[Any]]]:
    """What a file holds in the place of ``tensors``, and its ``packed``.

    Args:
        tensors: The tensors by their keys.
        values: Those among them that are packed: a matrix of no more than ``2^bits`` values, and the bits.
    """
    if not values:
        return dict(tensors), []
    codes, tables, rows = [], [], []
    for key, (matrix, bits) in values.items():
        table, places = matrix.detach().cpu().flatten().unique(return_inverse=True)
        codes.append(_to_bytes(places.numpy().astype(np.uint8), bits))
        tables.append(table)
        rows.append([key, str(matrix.dtype).removeprefix("torch."), list(matrix.shape), bits, len(table)])
    exact = torch.float64 if any(table.dtype == torch.float64 for table in tables) else torch.float32
    packed = {CODES: torch.from_numpy(np.concatenate(codes)), LEVELS: torch.cat([t.to(exact) for t in tables])}
    return {**{key: value for key, value in tensors.items() if key not in values}, **packed}, rows


def unpack_tensors(tensors: Mapping[str, Tensor], rows: list[list[Any]], where: str) -> dict[str, Tensor]:
    """The tensors of a file as they were before :func:`pack_tensors`.

    Raises:
        UserError: What is packed is not as ``rows`` say.
    """
    if not rows:
        return dict(tensors)
    fault = UserError(f"{where}: its packed matrices are not as it says: copy or train it again.")
    found = {key: value for key, value in tensors.items() if key not in (CODES, LEVELS)}
    if CODES not in tensors or LEVELS not in tensors or tensors[CODES].dtype != torch.uint8:
        raise fault
    codes, table = tensors[CODES].flatten().numpy(), tensors[LEVELS].flatten()
    for key, dtype, shape, bits, count in rows:
        size = math.prod(shape)
        length = math.ceil(size * bits / 8)
        if key in found or length > len(codes) or not 1 <= count <= min(2**bits, len(table)):
            raise fault
        places = torch.from_numpy(_from_bytes(codes[:length], bits, size)).long()
        if int(places.max()) >= count:
            raise fault
        found[key] = table[:count].to(getattr(torch, dtype))[places].view(shape)
        codes, table = codes[length:], table[count:]
    if len(codes) or len(table):
        raise fault
    return found


def _to_bytes(codes: np.ndarray, bits: int) -> np.ndarray:
    places = (codes[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(places.reshape(-1), bitorder="little")


def _from_bytes(packed: np.ndarray, bits: int, size: int) -> np.ndarray:
    places = np.unpackbits(packed, count=size * bits, bitorder="little").reshape(size, bits)
    return (places << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
