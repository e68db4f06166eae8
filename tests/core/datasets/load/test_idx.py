"""Files in the idx format: read whole, or refused in one line."""

import gzip
import struct

import numpy as np
import pytest

from vpeft.core.datasets.load.idx import read_idx
from vpeft.errors import UserError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(array, kind=8):
    return bytes((0, 0, kind, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_read(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(gzip.compress(idx(IMAGES)) if name.endswith(".gz") else idx(IMAGES))
    assert np.array_equal(read_idx(file, 3), IMAGES)
    with pytest.raises(UserError, match="begins with 00000803 where an idx file of bytes with 1 axes has 00000801"):
        read_idx(file, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty|begins with nothing"),
        (b"\x89PNG and more", "begins with 89504e47 where .* with 3 axes has 00000803"),
        (idx(IMAGES, kind=13), "begins with 00000d03"),
        (idx(IMAGES)[:10], "ends inside its header"),
        (idx(IMAGES)[:-1], "has 23 bytes where its header says 2 x 3 x 4: copy it again"),
        (idx(IMAGES) + b"!", "has 25 bytes where its header says 2 x 3 x 4"),
        (bytes((0, 0, 8, 3)) + b"\xff" * 12, "has 0 bytes where its header says 4294967295 x"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, data, message):
    for name, written in {"a": data, "a.gz": gzip.compress(data)}.items():
        (tmp_path / name).write_bytes(written)
        with pytest.raises(UserError, match=message) as refused:
            read_idx(tmp_path / name, 3, "labels")
        assert str(refused.value).startswith(f"labels {tmp_path / name}")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "broken", [lambda data: data[:-9], lambda data: data[:20] + b"\x00\xff" * 8 + data[36:], lambda data: b"no gzip"]
)
def test_broken_gzip_is_refused(tmp_path, broken):
    file = tmp_path / "a.gz"
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 20), dtype=np.uint8)
    file.write_bytes(broken(gzip.compress(idx(pixels))))
    with pytest.raises(UserError, match=r"a\.gz cannot be read \(.*\): copy it again"):
        read_idx(file, 3)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"labels .*none\.gz does not exist"):
        read_idx(tmp_path / "none.gz", 1, "labels")
