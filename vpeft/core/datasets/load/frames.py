"""Reading a clip that is a folder of frames."""

from __future__ import annotations

from typing import Any

from mmcv.transforms import BaseTransform

from vpeft.core.datasets.load.image import LoadImage
from vpeft.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadFrames(BaseTransform):
    """Reads the frames of ``frame_inds`` among ``frames`` into ``imgs``, uint8 ``(H, W, 3)`` in RGB order, as
    mmaction2's decoders do; files are read and checked as by ``vpeft.LoadImage``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``imgs``, ``img_shape`` and ``original_shape``."""
        read = {
            int(i): LoadImage.read(results["frames"][int(i)])[..., ::-1] for i in set(results["frame_inds"].ravel())
        }
        results["imgs"] = [read[int(i)].copy() for i in results["frame_inds"].ravel()]
        results["img_shape"] = results["original_shape"] = results["imgs"][0].shape[:2]
        return results
