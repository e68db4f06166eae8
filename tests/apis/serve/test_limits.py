"""What a client may send, and who it must be."""

import io
import socket

import numpy as np
import pytest
from PIL import Image

from vpeft.apis.serve.limits import Decoder, Limits, is_known, is_loopback, need_token
from vpeft.apis.serve.start import serve
from vpeft.core.datasets.load.image import LoadImage
from vpeft.errors import UserError


def test_bytes_are_read_as_the_file_of_them(tmp_path):
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    read = Decoder(Limits())((tmp_path / "a.png").read_bytes(), "a.png")
    assert np.array_equal(read, LoadImage.read(tmp_path / "a.png"))
    assert read.shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "image a.png is empty"),
        (b"GIF89a nothing", "truncated or no image"),
        (b"\x89PNG\r\n\x1a\n", "truncated or no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "truncated or no image"),
    ],
)
def test_what_is_no_image_is_named(data, words):
    with pytest.raises(UserError, match=words):
        Decoder(Limits())(data, "a.png")


def test_an_image_that_states_too_many_pixels_is_not_decoded():
    file = io.BytesIO()
    Image.new("1", (2000, 1000)).save(file, "PNG")
    assert len(file.getvalue()) < 1000
    with pytest.raises(UserError, match="more than 1,000,000 pixels"):
        Decoder(Limits(pixels=10**6))(file.getvalue(), "bomb.png")


def test_other_machines_need_a_token():
    for host in ("127.0.0.1", "localhost", "::1"):
        need_token(host, None)
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        assert not is_loopback(host)
        with pytest.raises(UserError, match="lets other machines in"):
            need_token(host, None)
        with pytest.raises(UserError, match="at least 16 characters"):
            need_token(host, "short")
        need_token(host, "0123456789abcdef")


def test_a_token_is_compared_whole():
    token = "0123456789abcdef"
    assert is_known(f"Bearer {token}", token)
    assert is_known(None, None)
    for header in (None, "", token, f"Basic {token}", f"Bearer {token}0", "Bearer ", "Bearer \u00fc"):
        assert not is_known(header, token)


def test_an_address_that_is_taken_is_refused_before_a_run_is_opened(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--host 127.0.0.1 --port {port} cannot be taken: .*in use"):
            serve([str(tmp_path)], port=port)
    with pytest.raises(UserError, match="--port is 1 to 65535"):
        serve([str(tmp_path)], port=0)
