"""Pictures of every kind are read as they look, or refused in one line that names the file."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from vpeft.core.datasets.load.image import FORMATS, LoadImage
from vpeft.errors import UserError

RAMP = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled(ending):
    cv2.imwrite(f"grey.{ending}", RAMP)
    pixels = LoadImage.read(f"grey.{ending}")
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - (RAMP / 257)[..., None]).max() <= 0.5


@pytest.mark.parametrize("ending", ["png", "tif", "ppm"])
def test_colours_of_sixteen_bits_are_scaled(ending):
    cv2.imwrite(f"colours.{ending}", COLOURS)
    assert np.abs(LoadImage.read(f"colours.{ending}") - COLOURS / 257).max() <= 1


def test_white_may_be_zero():
    Image.fromarray(RAMP).save("negative.tif", tiffinfo={262: 0})
    assert np.abs(LoadImage.read("negative.tif")[..., 0] - (255 - RAMP / 257)).max() <= 0.5


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("RGBA", "png"), ("LA", "png"), ("L", "jpg"), ("1", "png"), ("P", "gif"), ("CMYK", "tif"), ("RGBA", "webp")],
)
def test_other_pixels_are_read_as_mmcv_reads_them(mode, ending):
    picture = Image.fromarray((COLOURS >> 8).astype(np.uint8))
    picture.convert(mode).save(f"picture.{ending}")
    assert np.abs(LoadImage.read(f"picture.{ending}").astype(int) - cv2.imread(f"picture.{ending}")).max() <= 1


def test_what_lies_under_transparency_stays():
    pixels = np.full((4, 4, 4), 77, np.uint8)
    pixels[..., 3] = 0
    Image.fromarray(pixels).save("clear.png")
    assert (LoadImage.read("clear.png") == 77).all()


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [(RAMP.astype(np.float32), "F"), (RAMP.astype(np.int32) * 30_000, "I"), (RAMP.astype(np.int16), "I")],
)
def test_pixels_without_a_range_are_refused(pixels, mode):
    cv2.imwrite("wide.tif", pixels)
    with pytest.raises(UserError, match=rf"image of task dtd wide\.tif has pixels of PIL's mode '{mode}'.*convert it"):
        LoadImage.read("wide.tif", "dtd")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_obeyed_as_mmcv_does(orientation):
    picture = Image.fromarray((COLOURS[:20] >> 8).astype(np.uint8))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save("turned.png", exif=exif)
    assert np.array_equal(LoadImage()({"img_path": "turned.png"})["img"], cv2.imread("turned.png"))
    assert np.array_equal(LoadImage(exif=False)({"img_path": "turned.png"})["img"], np.asarray(picture)[..., ::-1])


def test_broken_exif_states_no_orientation():
    Image.new("RGB", (6, 4), "red").save("odd.jpg", exif=b"Exif\0\0no block of TIFF")
    assert LoadImage.read("odd.jpg").shape == (4, 6, 3)


def test_pixels_are_limited_by_the_header():
    with open("large.pgm", "wb") as file:
        file.write(b"P5 15000 12000 255\n")  # no pixels follow: decoding would call it truncated
    with pytest.raises(UserError, match=r"large\.pgm has more than 178,956,970 pixels by its header.*set max_pixels"):
        LoadImage.read("large.pgm")
    Image.new("L", (4, 3)).save("small.png")
    with pytest.raises(UserError, match="more than 11 pixels"):
        LoadImage(max_pixels=11)({"img_path": "small.png"})
    assert LoadImage.read("small.png", max_pixels=12).shape == (3, 4, 3)


def test_a_larger_limit_is_obeyed(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("L", (6, 5)).save("small.png")
    assert LoadImage.read("small.png", max_pixels=30).shape == (5, 6, 3)


def hostile(how):
    """A path at which no picture can be read."""
    whole = cv2.imencode(".png", COLOURS)[1].tobytes()
    contents = {
        "empty": b"",
        "text": b"hello",
        "truncated": whole[: len(whole) // 2],
        "bits": whole[:60] + bytes([whole[60] ^ 255]) + whole[61:],
        "no pixels": b"P6 0 0 255\n",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    }
    if how in contents:
        with open("file", "wb") as file:
            file.write(contents[how])
    elif how == "folder":
        os.mkdir("file")
    elif how == "pipe":
        os.mkfifo("file")
    return {"long": "a" * 300, "nul": "fi\0le"}.get(how, "file")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "image file does not exist: the archive was unpacked only in part"),
        ("empty", "image file is empty: copy or unpack it again"),
        ("folder", "image file is a folder"),
        ("pipe", "image file is no regular file"),
        ("long", "cannot be opened \\(File name too long\\)"),
        ("nul", "cannot be opened \\(embedded null byte\\)"),
        ("text", r"file is truncated or no image \(cannot identify image file\).*formats: JPEG, PNG"),
        ("truncated", "file is truncated or no image"),
        ("bits", "file is truncated or no image"),
        ("no pixels", "file is truncated or no image"),
        ("postscript", "file is truncated or no image"),
    ],
)
def test_a_file_that_holds_no_picture_is_named(how, message):
    with pytest.raises(UserError, match=message) as caught:
        LoadImage.read(hostile(how))
    assert "\n" not in str(caught.value)


def test_a_decoder_that_stumbles_is_named(monkeypatch):
    """Whatever PIL raises: its decoders check little of what they read."""
    Image.new("L", (3, 3)).save("file.png")

    def fall(self):
        raise KeyError("a\nb")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fall)
    with pytest.raises(UserError, match=r"file\.png is truncated or no image"):
        LoadImage.read("file.png")


def test_formats_are_named():
    assert "EPS" not in FORMATS
    Image.new("RGB", (16, 16)).save("icon.ico")
    with pytest.raises(UserError, match="no image"):
        LoadImage.read("icon.ico")
