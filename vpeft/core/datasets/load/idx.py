"""Files in the idx format of MNIST: arrays of bytes behind a header that says how long they are."""

from __future__ import annotations

import gzip
import os
import struct
import zlib

import numpy as np

from vpeft.errors import UserError
from vpeft.files import need_file

#: What the third byte of the header says of bytes without a sign; the fourth is the number of axes.
_UNSIGNED_BYTES = 8


def read_idx(path: str | os.PathLike[str], axes: int, what: str = "file") -> np.ndarray:
    """An idx file of unsigned bytes, compressed by gzip where its name ends on ``.gz``.

    The header is big-endian: two zero bytes, the kind of number, the number of axes, and the length of each axis in
    four bytes.

    Args:
        path: The file.
        axes: How many axes it must have: 3 for grey images, 1 for labels.
        what: What it is, for messages.

    Returns:
        uint8 of the shape that the header says.

    Raises:
        UserError: It is missing, broken, of another kind, shorter or longer than its header says.
    """
    need_file(path, what, "copy it again")
    where = f"{what} {path}"
    try:
        with gzip.open(path) if os.fspath(path).endswith(".gz") else open(path, "rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where} cannot be read ({error}): copy it again.") from error
    header = 4 + 4 * axes
    wanted = bytes((0, 0, _UNSIGNED_BYTES, axes))
    if data[:4] != wanted:
        raise UserError(
            f"{where} begins with {data[:4].hex() or 'nothing'} where an idx file of bytes with {axes} axes has "
            f"{wanted.hex()}: name another file."
        )
    if len(data) < header:
        raise UserError(f"{where} ends inside its header: copy it again.")
    shape = struct.unpack(f">{axes}I", data[4:header])
    size = int(np.prod(shape, dtype=object))
    if len(data) - header != size:
        raise UserError(
            f"{where} has {len(data) - header:,} bytes where its header says {' x '.join(map(str, shape))}: copy it "
            "again."
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
