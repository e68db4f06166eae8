"""Whether a PNG holds all of its rows: where its stream ends early, decoders leave the rest black without a word."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

#: Values of a pixel by the colour type of the header.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: Of the passes of an interlaced file: first column and row, and the steps to the next ones (PNG, section 8.2).
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def check_rows(source: str | os.PathLike[str] | bytes) -> None:
    """Unpack the pixels of a PNG without decoding them, and count.

    Args:
        source: A file, or what it would hold.

    Raises:
        SyntaxError: There are fewer bytes than its header says.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    chunks = list(_chunks(data))
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1][:13])
    pixel = bits * _CHANNELS[colour]
    parts = _PASSES if interlaced else ((0, 0, 1, 1),)
    need = 0
    for left, top, right, down in parts:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        need += rows * (1 + -(-columns * pixel // 8)) if columns > 0 and rows > 0 else 0
    stream, found = zlib.decompressobj(), 0
    for kind, content in chunks:
        if kind == b"IDAT" and found < need:
            found += len(stream.decompress(content, need - found))
    if found < need:
        raise SyntaxError(f"its pixels end after {100 * found // need} % of its rows")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 8 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length
