"""Records of kept features: tensors by name and a sum over them; a batch is put together by one copy of each."""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.utils import _pytree

from vpeft.core.store import Store

#: Bytes of the sum behind the tensors, and of the length of their header.
SUM, LENGTH = 4, 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class StoredTensor(NamedTuple):
    """A tensor of a record: its type, its shape, and where its bytes begin and end."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Records:
    """Records in a store, read in batches.

    A record whose sum is not that of its bytes is taken for none; it is looked at once in each process.

    Args:
        store: Where they are.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._layouts: dict[bytes, dict[str, StoredTensor]] = {}
        self._sound: set[bytes] = set()

    def read(self, keys: Sequence[bytes], pinned: bool = False) -> tuple[dict[str, Tensor] | None, list[bool]]:
        """The tensors of the keys by name, ``(len(keys), ...)``, None where a record is missing; and which are there.

        Args:
            keys: The keys.
            pinned: Put them where an accelerator copies from.
        """
        with self.store.reading(keys) as found:
            layouts = [None if r is None else self._layout(key, r) for key, r in zip(keys, found, strict=True)]
            there = [one is not None for one in layouts]
            if not all(there) or any(one is not layouts[0] for one in layouts):
                return None, there
            batch = {
                name: torch.empty((len(keys), part.end - part.start), dtype=torch.uint8, pin_memory=pinned)
                for name, part in layouts[0].items()
            }
            rows = {name: whole.numpy() for name, whole in batch.items()}
            for i, record in enumerate(found):
                whole = np.frombuffer(record, np.uint8)
                for name, part in layouts[0].items():
                    rows[name][i] = whole[part.start : part.end]
        return {
            name: whole.view(part.dtype).view(len(keys), *part.shape)
            for (name, whole), part in zip(batch.items(), layouts[0].values(), strict=True)
        }, there

    def keep(self, rows: Mapping[bytes, Mapping[str, Tensor]]) -> bool:
        """Keep tensors by key, all of them or none where they do not fit any more; whether they are kept."""
        kept = self.store.put({key: packed(tensors) for key, tensors in rows.items()})
        if kept:
            self._sound.update(rows)
        return kept

    def _layout(self, key: bytes, record: Any) -> dict[str, StoredTensor] | None:
        """Where the tensors of a record stand; None where it is damaged."""
        if key not in self._sound:
            body = memoryview(record)[:-SUM]
            if len(record) <= SUM + LENGTH or zlib.crc32(body).to_bytes(SUM, "little") != bytes(record[-SUM:]):
                return None
            self._sound.add(key)
        first = LENGTH + int.from_bytes(record[:LENGTH], "little")
        header = bytes(record[:first])
        if header not in self._layouts:
            parts = json.loads(header[LENGTH:])
            self._layouts[header] = {
                name: StoredTensor(DTYPES[p["dtype"]], tuple(p["shape"]), *(first + n for n in p["data_offsets"]))
                for name, p in parts.items()
            }
        return self._layouts[header]


class Unread(Tensor):
    """A tensor that is read when more is asked than its shape, type and place.

    Attributes:
        read: Gives it.
        digests: Of its rows, known from before (:func:`digests`).
    """

    read: Callable[[], Tensor]
    digests: list[bytes] | None

    @classmethod
    def of(
        cls,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device | str,
        read: Callable[[], Tensor],
        known: list[bytes] | None = None,
    ) -> Unread:
        """One of this shape, type and place."""
        made = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        made.read, made.digests = functools.cache(read), known
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any operation is one on what is read."""
        args, kwargs = _pytree.tree_map_only(Unread, lambda x: x.read(), (args, kwargs or {}))
        return func(*args, **kwargs)


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """A record of tensors by name."""
    body = save({name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()})
    return body + zlib.crc32(body).to_bytes(SUM, "little")


def digests(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[bytes] | None:
    """A digest of each image of a call's batch, with all else that the call is given; None where no batch is."""
    leaves, spec = _pytree.tree_flatten((args, dict(kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if len(tensors) == 1 and isinstance(tensors[0], Unread) and tensors[0].digests:
        return tensors[0].digests
    if not tensors or any(x.requires_grad or not x.dim() or len(x) != len(tensors[0]) for x in tensors):
        return None
    rest = _beside(leaves, spec)
    wholes = [bits(x).reshape(len(x), -1) for x in tensors]
    return [_digest(rest, *(whole[i] for whole in wholes)) for i in range(len(tensors[0]))]


def mixed_batch(
    batches: Sequence[tuple[Sequence[bytes], tuple[Any, Mapping[str, Any]]]], count: int
) -> tuple[list[bytes], tuple[Any, Mapping[str, Any]]] | None:
    """So many images around the seam of batches, in a call of their own, so that others are together than were.

    Args:
        batches: Of each the digests of its images (:func:`digests`), and the arguments of its call.
        count: How many; fewer than are there.

    Returns:
        Digests and call; None where there are too few images, or the batches differ in more than their images.
    """
    images = [one for digested, _ in batches for one in digested]
    flat = [_pytree.tree_flatten(call) for _, call in batches]
    if count >= len(images) or len({_beside(*one) for one in flat}) > 1:
        return None
    rows = slice((len(images) - count) // 2, (len(images) + count) // 2)
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    mixed = [torch.cat(xs)[rows] if isinstance(xs[0], Tensor) else xs[0] for xs in columns]
    return images[rows], _pytree.tree_unflatten(mixed, flat[0][1])


def _beside(leaves: Sequence[Any], spec: Any) -> bytes:
    """What a call is given beside the images themselves: equal in equal calls."""
    return repr([spec, *((x.shape[1:], x.dtype) if isinstance(x, Tensor) else x for x in leaves)]).encode()


def bits(x: Tensor) -> np.ndarray:
    """The bytes of a tensor, in order, as far as may be without a copy."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _digest(*parts: Any) -> bytes:
    digest = hashlib.blake2b()
    for part in parts:
        digest.update(part)
    return digest.digest()
