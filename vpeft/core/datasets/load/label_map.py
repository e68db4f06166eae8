"""Label maps read from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image, UnidentifiedImageError

from vpeft.errors import UserError
from vpeft.registry import TRANSFORMS

#: Of the pixels that no class is asked for; mmseg's own.
IGNORED = 255


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
            super()._load_seg_map(results)
        except (OSError, SyntaxError) as error:
            raise UserError(f"label map {path} is truncated ({error}): unpack it again.") from error
        classes = self.num_classes or results.get("num_classes")
        if classes is None:
            return
        found = np.flatnonzero(np.bincount(results["gt_seg_map"].ravel(), minlength=IGNORED + 1)[:IGNORED])
        if len(found) and found[-1] >= classes:
            first = 1 if self.reduce_zero_label else 0
            unused = f"0 and {IGNORED}" if first else IGNORED
            raise UserError(
                f"label map {path} holds the value {found[-1] + first}: the {classes} classes are {first} to "
                f"{classes - 1 + first} (none: {unused}). Correct the map, or the data set's classes."
            )

    @staticmethod
    def check_file(path: str, image: str, shape: tuple[int, int]) -> None:
        """Refuse a file that is no map of bytes of the image's height and width ``shape``; reads its header alone."""
        if not Path(path).is_file():
            raise UserError(
                f"label map {path} of image {image} does not exist: the data set was unpacked only in part."
            )
        try:
            with Image.open(path) as label_map:
                mode, (width, height) = label_map.mode, label_map.size
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise UserError(f"label map {path} is no image ({error}): unpack it again.") from error
        if mode not in ("L", "P"):
            raise UserError(
                f"label map {path} has pixels of PIL's mode {mode!r}, and one byte a pixel is needed, the class (modes "
                "L and P): convert it."
            )
        if (height, width) != tuple(shape[:2]):
            raise UserError(
                f"label map {path} has {height} x {width} pixels and its image {image} {shape[0]} x {shape[1]}: they "
                "do not belong together."
            )
