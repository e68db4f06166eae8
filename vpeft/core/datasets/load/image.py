"""Reading one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image, ImageOps, UnidentifiedImageError

from vpeft.errors import UserError
from vpeft.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Reads ``img_path`` with PIL into ``img``, uint8 ``(H, W, 3)`` in BGR order, as mmcv's ``LoadImageFromFile`` does.

    OpenCV decodes a truncated JPEG without a word and fills the rest with grey; PIL refuses it. Results that hold an
    ``img`` already (the embedded tasks) only get their shapes.

    Args:
        exif: Turn the image as its EXIF orientation says, which annotations of objects assume.

    Raises:
        UserError: The file is missing, truncated or no image; the message names task and path.
    """

    def __init__(self, exif: bool = False) -> None:
        self.exif = exif

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``img``, ``img_shape`` and ``ori_shape``."""
        if "img" not in results:
            results["img"] = self.read(results["img_path"], results.get("task", ""), self.exif)
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results

    @staticmethod
    def read(path: str, task: str = "", exif: bool = False) -> np.ndarray:
        """One file as BGR."""
        of = f" of task {task}" if task else ""
        if not Path(path).is_file():
            raise UserError(f"image{of} {path} does not exist: the archive was unpacked only in part.")
        try:
            with Image.open(path) as image:
                turned = ImageOps.exif_transpose(image) if exif else image
                return np.ascontiguousarray(np.asarray(turned.convert("RGB"))[..., ::-1])
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise UserError(f"image{of} {path} is truncated or no image ({error}): unpack it again.") from error
