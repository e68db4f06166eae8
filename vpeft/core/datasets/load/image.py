"""Reading one image: every picture that the project opens is opened here."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image, ImageOps

from vpeft.core.datasets.load.png_rows import check_rows
from vpeft.errors import UserError
from vpeft.files import need_file
from vpeft.registry import TRANSFORMS

#: Formats that are opened, by PIL's names. Some of PIL's others start programs or open further files, and colours of 16
#: bits in JPEG2000 are decoded wrong (white becomes black).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")
#: Pixels that an image may have by its header, about 13,000 x 13,000; half a gigabyte once decoded.
MAX_PIXELS = 178_956_970
#: Modes of PIL of 8 bits a channel that mean one colour a pixel; an alpha channel is left out, as mmcv does.
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
#: Tags of TIFF.
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Reads ``img_path`` with PIL into ``img``, uint8 ``(H, W, 3)`` in BGR order, as mmcv's ``LoadImageFromFile`` does.

    OpenCV decodes a truncated JPEG without a word and fills the rest with grey; PIL refuses it. Images of 16 bits are
    scaled to 8. Of several pictures in one file (GIF, TIFF) the first is read; an alpha channel is left out. Results
    that hold an ``img`` already (the embedded tasks) only get their shapes.

    Args:
        exif: Turn the image as its EXIF orientation says, as mmcv does.
        max_pixels: Refuse an image whose header states more pixels, before they are decoded.

    Raises:
        UserError: The file is missing, empty, truncated, no image, of another format than :data:`FORMATS`, too large,
            or of pixels without a stated range (32 bits, floating point, Lab); the message names task and path.
    """

    def __init__(self, exif: bool = True, max_pixels: int = MAX_PIXELS) -> None:
        self.exif, self.max_pixels = exif, max_pixels

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``img``, ``img_shape`` and ``ori_shape``."""
        if "img" not in results:
            results["img"] = self.read(results["img_path"], results.get("task", ""), self.exif, self.max_pixels)
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results

    @staticmethod
    def read(
        path: str | os.PathLike[str], task: str = "", exif: bool = True, max_pixels: int = MAX_PIXELS
    ) -> np.ndarray:
        """One file as BGR, uint8 ``(H, W, 3)``."""
        what = f"image of task {task}" if task else "image"
        return np.ascontiguousarray(colours_of(open_image(path, what, exif, max_pixels), f"{what} {path}")[..., ::-1])


def open_image(
    path: str | os.PathLike[str], what: str = "image", exif: bool = True, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """An image file, decoded, its pixels as they are stored.

    Args:
        path: The file.
        what: What it is, for messages.
        exif: Turn it as its EXIF orientation says.
        max_pixels: As of :class:`LoadImage`.

    Raises:
        UserError: As :class:`LoadImage`, but for the kind of pixels.
    """
    need_file(path, what, "the archive was unpacked only in part")
    return _opened(lambda: path, f"{what} {path}", exif, max_pixels)


def read_bytes(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image that is no file, as :meth:`LoadImage.read` reads one.

    Args:
        data: What would be the file's contents.
        name: What it is called in messages.
        max_pixels: As of :class:`LoadImage`.
    """
    if not data:
        raise UserError(f"image {name} is empty.")
    image = _opened(lambda: io.BytesIO(data), f"image {name}", True, max_pixels)
    return np.ascontiguousarray(colours_of(image, f"image {name}")[..., ::-1])


def _opened(source: Callable[[], Any], where: str, exif: bool, max_pixels: int) -> Image.Image:
    """An image from a path, or from what holds its bytes: one that has not been read yet at every call."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # PIL's own limit, of the process, would stand below the one asked for
    try:
        image = Image.open(source(), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise Image.DecompressionBombError
        image.load()
        if image.format == "PNG":
            check_sums(source(), whole=_reaches_the_end(image))
        if image.mode == "P" and image.palette is None:
            raise ValueError("it has no palette")
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{where} has more than {max_pixels:,} pixels by its header: make it smaller, or set max_pixels of "
            "vpeft.LoadImage."
        ) from error
    except Exception as error:  # PIL's decoders raise whatever a broken file makes them stumble over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace(f" {str(source())!r}", "")
        raise UserError(
            f"{where} is truncated or no image ({reason}): unpack it again (formats: {', '.join(FORMATS)})."
        ) from error
    if exif:
        with contextlib.suppress(Exception):  # a broken EXIF block states no orientation; mmcv passes over it too
            ImageOps.exif_transpose(image, in_place=True)
    return image


def check_sums(path: str | os.PathLike[str] | io.BytesIO, whole: bool = False) -> None:
    """Compare the CRC-32 of every part of a PNG, without which PIL decodes its pixels; other formats have none.

    Args:
        path: The file, or what holds its bytes.
        whole: Whether all of its rows are known to be there.

    Raises:
        SyntaxError: One differs, or rows are missing.
    """
    with Image.open(path, formats=FORMATS) as image:
        if image.format != "PNG":
            return
        image.verify()
    if not whole:
        check_rows(path.getvalue() if isinstance(path, io.BytesIO) else path)


def _reaches_the_end(image: Image.Image) -> bool:
    """Whether the last row of a decoded image holds something: what the file does not give is black."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    return not image.info.get("interlace") and bool(np.asarray(last).any())


def colours_of(image: Image.Image, where: str) -> np.ndarray:
    """The picture in RGB, uint8 ``(H, W, 3)``, scaled where it has 16 bits."""
    if image.mode in _EIGHT_BITS:
        return np.asarray(image.convert("RGB"))
    # PIL reads grey images of 16 bits in PPM as whole numbers of 32, scaled to the range of 16.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        tags = getattr(image, "tag_v2", {})
        top = 2 ** int(tags.get(_BITS, (16,))[0]) - 1
        grey = np.asarray(image).astype(np.uint32)
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            grey = top - grey
        return np.repeat(((grey * 255 + top // 2) // top).astype(np.uint8)[..., None], 3, axis=2)
    raise UserError(
        f"{where} has pixels of PIL's mode {image.mode!r}, and nothing says which range becomes 0 to 255: convert it "
        "to RGB or grey of 8 or 16 bits."
    )
