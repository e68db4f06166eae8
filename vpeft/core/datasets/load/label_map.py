"""Label maps read from files."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from vpeft.core.datasets.load.image import check_sums
from vpeft.errors import UserError
from vpeft.files import need_file
from vpeft.registry import TRANSFORMS

#: Of the pixels that no class is asked for; mmseg's own.
IGNORED = 255
#: Formats of label maps, by PIL's names; those that lose something (JPEG, WebP) change the classes along edges.
MAP_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
_ORIENTATION = 0x0112


@TRANSFORMS.register_module()
class LoadLabelMap(LoadAnnotations):
    """mmseg's ``LoadAnnotations`` for maps of one byte a pixel, checked.

    Without these checks a map of 16 bits is cut to 8, a value beyond the classes ends training deep in the loss and
    is left out of the accuracy in testing, and a map of another size is cropped elsewhere than its image.

    Args:
        num_classes: Classes of the data set; taken from the sample where it knows (``vpeft.ADE20K``, ...).
        **kwargs: Of mmseg's ``LoadAnnotations``.

    Raises:
        UserError: The map is missing, truncated, no map of bytes, of another size than its image, or holds a value
            beyond the classes; the message names the file.
    """

    def __init__(self, num_classes: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        path = results["seg_map_path"]
        self.check_file(path, results["img_path"], results["ori_shape"])
        try:
            check_sums(path)
            super()._load_seg_map(results)
        except Exception as error:  # PIL's decoders raise whatever a broken file makes them stumble over
            raise UserError(f"label map {path} is truncated or cannot be read ({error}): unpack it again.") from error
        classes = self.num_classes or results.get("num_classes")
        if classes is not None:
            count_classes(results["gt_seg_map"], classes, {IGNORED}, self.reduce_zero_label, path)

    @staticmethod
    def check_file(path: str, image: str, shape: tuple[int, int]) -> None:
        """Refuse a file that is no map of bytes of the image's height and width ``shape``; reads its header alone."""
        height, width = map_header(path)
        if (height, width) != tuple(shape[:2]):
            raise UserError(
                f"label map {path} has {height} x {width} pixels and its image {image} {shape[0]} x {shape[1]}: they "
                "do not belong together."
            )


def count_classes(
    label_map: np.ndarray, classes: int, ignored: Collection[int], reduce_zero_label: bool, path: str
) -> np.ndarray:
    """Pixels of each class of a label map, ``(classes,)``.

    Args:
        label_map: Whole numbers ``(H, W)``, as they are after reading.
        classes: Values of pixels are 0 to ``classes - 1``.
        ignored: Further values, of pixels that no class is asked for.
        reduce_zero_label: Whether reading has made 0 an ignored value and counts the classes from 1 in the file.
        path: The file, for messages.

    Raises:
        UserError: It holds another value.
    """
    values, counts = np.unique(label_map, return_counts=True) if label_map.dtype != np.uint8 else _bytes(label_map)
    inside = (values >= 0) & (values < classes)
    for value in values[~inside]:
        if value not in ignored:
            first = 1 if reduce_zero_label else 0
            unused = " and ".join(map(str, sorted({0, *ignored} if first else ignored)))
            raise UserError(
                f"label map {path} holds the value {value + first}: the {classes} classes are {first} to "
                f"{classes - 1 + first} (none: {unused}). Correct the map, or the data set's classes."
            )
    found = np.zeros(classes, np.int64)
    found[values[inside]] = counts[inside]
    return found


def _bytes(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of bytes and how often each occurs; many times faster than sorting them."""
    counts = np.bincount(label_map.ravel())
    values = np.flatnonzero(counts)
    return values, counts[values]


def map_header(path: str) -> tuple[int, int]:
    """Height and width of a label map of one byte a pixel, by its header.

    Raises:
        UserError: There is no such file, it is of another format than :data:`MAP_FORMATS`, has another number of bytes
            a pixel, or is turned by EXIF, which mmseg's reading passes over.
    """
    need_file(path, "label map", "the data set was unpacked only in part")
    try:
        with Image.open(path, formats=MAP_FORMATS) as label_map:
            mode, (width, height) = label_map.mode, label_map.size
            # PNG's own method would decode the pixels; PIL turns a TIFF by itself.
            turned = Image.Image.getexif(label_map).get(_ORIENTATION, 1) if label_map.format == "PNG" else 1
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"label map {path} is no image without loss ({reason}): unpack it again, or store it as PNG (formats: "
            f"{', '.join(MAP_FORMATS)})."
        ) from error
    if mode not in ("L", "P"):
        raise UserError(
            f"label map {path} has pixels of PIL's mode {mode!r}, and one byte a pixel is needed, the class (modes L "
            "and P): convert it."
        )
    if turned not in (0, 1):
        raise UserError(
            f"label map {path} is turned by its EXIF orientation ({turned}), which readers of label maps pass over: "
            "store it upright, without EXIF."
        )
    return height, width
