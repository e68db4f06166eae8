"""A PNG whose stream ends at the end of a row: PIL leaves the rest black; here it is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vpeft.core.datasets.load.image import open_image, read_bytes
from vpeft.core.datasets.load.label_map import LoadLabelMap
from vpeft.core.datasets.load.png_rows import _PASSES, check_rows
from vpeft.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)


def parts_of(data):
    place, found = 8, []
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def joined(parts):
    crc = [struct.pack(">I", zlib.crc32(kind + content)) for kind, content in parts]
    body = [struct.pack(">I", len(c)) + k + c + sums for (k, c), sums in zip(parts, crc, strict=True)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def cut(data, count=None):
    """The same file with so many bytes of unpacked rows; and how many there are."""
    parts = parts_of(data)
    rows = zlib.decompress(b"".join(content for kind, content in parts if kind == b"IDAT"))
    head, tail = [p for p in parts if p[0] not in (b"IDAT", b"IEND")], (b"IEND", b"")
    return joined([*head, (b"IDAT", zlib.compress(rows[:count])), tail]), len(rows)


def written(mode):
    pixels = {"1": PIXELS[..., 0] > 99, "L": PIXELS[..., 0], "LA": PIXELS[..., :2], "RGB": PIXELS[..., :3]}
    pixels |= {"RGBA": PIXELS, "I;16": PIXELS[..., 0].astype(np.uint16) * 257}
    image = Image.fromarray(PIXELS[..., :3]).quantize(13) if mode == "P" else Image.fromarray(pixels[mode])
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def interlaced():
    """Grey of 9 x 7 pixels in seven passes, each row with the filter 0."""
    grey, rows = PIXELS[..., 0], b""
    for left, top, right, down in _PASSES:
        for row in grey[top::down, left::right]:
            rows += b"\0" + row.tobytes() if len(row) else b""
    head = struct.pack(">IIBBBBB", 7, 9, 8, 0, 0, 0, 1)
    return joined([(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "interlaced"])
def test_every_row_is_counted(tmp_path, mode):
    data = interlaced() if mode == "interlaced" else written(mode)
    if mode == "interlaced":  # the passes are the format's own
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), PIXELS[..., 0])
    whole, count = cut(data)
    check_rows(whole)
    read_bytes(whole, "a.png")
    for left in range(count):
        short = cut(data, left)[0]
        with pytest.raises(SyntaxError, match=f"its pixels end after {100 * left // count} % of its rows"):
            check_rows(short)
        with pytest.raises(UserError, match=r"^image a\.png is truncated or no image"):
            read_bytes(short, "a.png")


def test_a_black_end_is_no_fault(tmp_path):
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(tmp_path / "black.png")
    assert not np.asarray(open_image(tmp_path / "black.png")).any()


def test_label_maps(tmp_path):
    file = tmp_path / "map.png"
    Image.fromarray(PIXELS[..., 0] % 5).save(file)
    results = {"seg_map_path": str(file), "img_path": "a.jpg", "ori_shape": (9, 7), "seg_fields": []}
    results |= {"label_map": None, "reduce_zero_label": False}
    load = LoadLabelMap(num_classes=5)
    assert np.array_equal(load.transform(dict(results))["gt_seg_map"], PIXELS[..., 0] % 5)
    file.write_bytes(cut(file.read_bytes(), 5 * 8)[0])
    with pytest.raises(UserError, match=r"map\.png is truncated or cannot be read \(its pixels end after 55 % of"):
        load.transform(dict(results))
