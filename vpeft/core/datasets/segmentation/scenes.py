"""Drawn scenes with label maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mmseg.datasets import BaseSegDataset
from PIL import Image

from vpeft.core.datasets.embedded.scenes import CLASSES, PALETTE, SPLITS, Scene, draw_split, ensure
from vpeft.core.datasets.real.scenes import draw_real_split
from vpeft.core.datasets.segmentation.label_maps import CheckedMaps
from vpeft.errors import UserError
from vpeft.registry import DATASETS, nearest


@DATASETS.register_module()
class SceneMaps(CheckedMaps, BaseSegDataset):
    """The embedded scenes with label maps: 0 is the background, then the scenes' ``CLASSES``.

    On first use they are drawn into ``<data_root>/images/<split>/*.png`` and ``<data_root>/annotations/<split>/*.png``.

    Args:
        split: ``train | val | test``.
        data_root: The folder.
        **kwargs: Of mmseg's ``BaseSegDataset``, such as ``pipeline``.

    Raises:
        UserError: Unknown split, or the folder is of another kind or cannot be written.
    """

    METAINFO = {
        "classes": ("background", *CLASSES),
        # Okabe and Ito's colours, which colour-blind eyes tell apart.
        "palette": [[0, 0, 0], *map(list, PALETTE)],
    }

    def __init__(self, split: str = "train", data_root: str = "data/embedded/scenes_maps", **kwargs) -> None:
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r} of the scenes: {nearest(split, SPLITS)}")
        ensure(data_root, self.write)
        folders = {"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"}
        super().__init__(img_suffix=".png", data_root=data_root, data_prefix=folders, **kwargs)

    @staticmethod
    def write(folder: Path) -> None:
        """Draw the files."""
        write_scenes(folder)


@DATASETS.register_module()
class RealSceneMaps(SceneMaps):
    """The scenes at 224 pixels in front of photographs (:mod:`vpeft.core.datasets.real.scenes`), with label maps.

    Args:
        split: ``train | val | test``.
        data_root: The folder.
        **kwargs: Of mmseg's ``BaseSegDataset``, such as ``pipeline``.

    Raises:
        UserError: Unknown split, or the folder is of another kind or cannot be written.
    """

    def __init__(self, split: str = "train", data_root: str = "data/real/scenes_maps", **kwargs) -> None:
        super().__init__(split, data_root, **kwargs)

    @staticmethod
    def write(folder: Path) -> None:
        """Draw the files."""
        write_scenes(folder, draw_real_split)


def write_scenes(folder: Path, draw: Callable[[str], Sequence[Scene]] = draw_split) -> None:
    """Draw all splits of the scenes into a folder, in ADE20K's layout, with the colours in the maps.

    Args:
        folder: One that exists.
        draw: Gives the scenes of a split.
    """
    palette = np.array(SceneMaps.METAINFO["palette"], dtype=np.uint8).tobytes()
    for split in SPLITS:
        images, maps = folder / "images" / split, folder / "annotations" / split
        images.mkdir(parents=True)
        maps.mkdir(parents=True)
        for number, scene in enumerate(draw(split)):
            Image.fromarray(scene.image).save(images / f"{number:04d}.png")
            label_map = Image.fromarray(scene.label_map)
            label_map.putpalette(palette)
            label_map.save(maps / f"{number:04d}.png")
