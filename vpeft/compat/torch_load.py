"""torch 2.13: what ``torch.load(weights_only=True)`` restores depends on the names that it is allowed.

mmengine allows ``getattr`` beside a class with a ``__dict__``, which together reach ``exec``, and numpy's own
``dtype``, whose flags the file sets: bytes are then read as pointers. Here each name that checkpoints hold besides
tensors stands for a class or function of this file, which takes values and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zipfile
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpeft.errors import UserError

_MARK = b"vpeft sha256 "


class StoredType:
    """Of ``numpy.dtype``: booleans, integers, floats, complex numbers and text."""

    __slots__ = ("value",)

    def __init__(self, name: str = "", *_: Any) -> None:
        if type(name) is not str or not re.fullmatch(r"b1|[iuf][1248]|c8|c16|[US]\d{1,4}", name):
            raise UnpicklingError(f"an array of the type {name!r}")
        self.value = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class StoredArray:
    """Of ``numpy.ndarray``."""

    __slots__ = ("value",)

    def __new__(cls, *_: Any) -> StoredArray:
        self = super().__new__(cls)
        self.value = None
        return self

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        if type(kind) is not StoredType or type(data) is not bytes:
            raise UnpicklingError("an array of objects")
        array = np.frombuffer(data, kind.value)
        self.value = array.reshape(shape, order="F" if fortran else "C").copy(order="K")


class StoredHistory:
    """Of mmengine's ``HistoryBuffer``: two arrays and the largest length."""

    __slots__ = ("value",)

    def __new__(cls) -> StoredHistory:
        self = super().__new__(cls)
        self.value = None
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = [state["_log_history"], state["_count_history"]]
        if not all(type(a) is StoredArray and a.value is not None and a.value.dtype.kind in "biuf" for a in arrays):
            raise UnpicklingError("a HistoryBuffer of other things than numbers")
        if type(state["max_length"]) is not int:
            raise UnpicklingError("a HistoryBuffer without a length")
        from mmengine.logging import HistoryBuffer

        self.value = HistoryBuffer(*(a.value for a in arrays), state["max_length"])


class LeftOut:
    """Of a training script's arguments: nothing."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def stored_array(*_: Any) -> StoredArray:
    """Of numpy's ``_reconstruct``, which makes an empty array."""
    return StoredArray()


def stored_number(kind: StoredType, data: bytes) -> np.generic:
    """Of numpy's ``scalar``."""
    if type(kind) is not StoredType or type(data) is not bytes:
        raise UnpicklingError("a number of another kind")
    return np.frombuffer(data, kind.value, count=1)[0]


def statistic(owner: Any, name: str) -> None:
    """Of ``getattr``: a HistoryBuffer's statistics are written as its attributes; it has them anyway."""
    if owner is not StoredHistory or type(name) is not str or name.startswith("_"):
        raise UnpicklingError(f"the attribute {str(name)[:40]!r} of {str(owner)[:60]}")


#: What may stand in a file besides tensors and Python's containers, and what it stands for.
ALLOWED = [
    (slice, "builtins.slice"),
    (statistic, "builtins.getattr"),
    (StoredHistory, "mmengine.logging.history_buffer.HistoryBuffer"),
    (LeftOut, "argparse.Namespace"),
    (StoredType, "numpy.dtype"),
    (StoredArray, "numpy.ndarray"),
    *((stored_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((stored_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


class HoldsObjects(UserError):
    """A file holds something that only running code could restore; the message says what."""


class Damaged(UserError):
    """A file is cut short, changed, or of another kind; the message says how that was seen, ``kind`` in one word."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_torch(file: Any, map_location: Any = None) -> Any:
    """What a torch file holds, read without running code of it.

    Args:
        file: A path or an open binary file.
        map_location: As in ``torch.load``.

    Raises:
        HoldsObjects: It holds more than tensors, numbers, text and containers of them.
        Damaged: It is cut short, changed, or no torch file.
        OSError: It cannot be opened.
    """
    try:
        _check_archive(file)
        # torch warns of odd files before it refuses them: the refusal is enough.
        with warnings.catch_warnings(), torch.serialization.safe_globals(ALLOWED):
            warnings.simplefilter("ignore")
            return _restored(torch.load(file, map_location=map_location, weights_only=True), {})
    except (Damaged, HoldsObjects):
        raise
    except UnpicklingError as error:
        raise _refused(error) from error
    except Exception as error:  # whatever bytes can lead to: nothing of it is ours
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged(error) from error


def sealed_archive(data: bytes) -> bytes:
    """The bytes of a torch file with a sum over all of them in the archive's comment, which readers pass over."""
    if not data.startswith(b"PK\x03\x04") or data[-22:-18] != b"PK\x05\x06" or data[-2:] != b"\0\0":
        return data
    comment = _MARK + hashlib.sha256(data).hexdigest().encode()
    return data[:-2] + len(comment).to_bytes(2, "little") + comment


def _check_archive(file: Any) -> None:
    """Of files written here the sum over every byte; of others the CRC-32 of what they hold, unlike torch."""
    if not zipfile.is_zipfile(file):
        _rewind(file)
        return
    with zipfile.ZipFile(file) as archive:
        members, comment = archive.infolist(), archive.comment
        if any(m.filename.endswith("/constants.pkl") for m in members):
            raise HoldsObjects("a TorchScript program")
        size = archive.fp.seek(0, os.SEEK_END)
        # What torch writes is not packed, so a file cannot hold more than its own size.
        if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
            raise Damaged("its archive is packed, which torch's are not", "BadZipFile")
        archive.fp.seek(-len(comment) - 2, os.SEEK_END)
        if int.from_bytes(archive.fp.read(2), "little") != len(comment):
            raise Damaged("its end is cut off or changed", "BadZipFile")
        if comment:
            _check_seal(archive.fp, size, comment)
        elif broken := archive.testzip():
            raise Damaged(f"{broken!a} in it differs from its CRC-32", "BadZipFile")
    _rewind(file)


def _check_seal(file: Any, size: int, comment: bytes) -> None:
    digest, left = hashlib.sha256(), size - len(comment) - 2
    file.seek(0)
    while left:
        block = file.read(min(left, 1 << 20))
        digest.update(block)
        left -= len(block)
    digest.update(b"\0\0")
    if comment != _MARK + digest.hexdigest().encode():
        raise Damaged("its bytes differ from its SHA-256", "BadZipFile")


def _rewind(file: Any) -> None:
    if hasattr(file, "seek"):
        file.seek(0)


def _restored(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """Arrays and buffers in the place of what stands for them; nothing else has attributes of its own."""
    if id(value) in done:
        return done[id(value)][1]
    done[id(value)] = (value, value)  # the object is kept, so that no other one gets its id
    if isinstance(value, (StoredArray, StoredHistory)):
        if value.value is None:
            raise UnpicklingError("an array or a HistoryBuffer without values")
        done[id(value)] = (value, value.value)
    elif isinstance(value, dict):
        if set(getattr(value, "__dict__", ())) - {"_metadata"}:
            raise UnpicklingError(f"a {type(value).__name__} with attributes")
        for key in list(value):
            value[key] = _restored(value[key], done)
    elif isinstance(value, list):
        value[:] = [_restored(one, done) for one in value]
    elif type(value) is tuple:
        done[id(value)] = (value, tuple(_restored(one, done) for one in value))
    elif isinstance(value, Tensor):
        value.__dict__.clear()
    return done[id(value)][1]


def _refused(error: UnpicklingError) -> UserError:
    """torch names what it does not allow behind the word GLOBAL; what it says else is of broken files."""
    words = str(error).partition("GLOBAL ")[2].split()
    return HoldsObjects(words[0]) if words else _damaged(error)


def _damaged(error: Exception) -> UserError:
    return Damaged(f"{type(error).__name__}: {_line(error)}", type(error).__name__)


def _line(error: BaseException) -> str:
    text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    lines = [line for line in text.splitlines() if line.strip()]
    return ascii(lines[0][:120])[1:-1] if lines else "no reason given"
