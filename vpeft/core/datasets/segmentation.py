"""Label maps: ADE20K in its public layout, the embedded scenes in the same, and a reader that checks what it reads.

Importing this module needs mmsegmentation; configs name it in ``custom_imports``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmseg.datasets import ADE20KDataset, BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image, UnidentifiedImageError

from vpeft.core.datasets.scenes import CLASSES, PALETTE, SPLITS, draw_split, ensure
from vpeft.errors import UserError
from vpeft.registry import DATASETS, TRANSFORMS, nearest

#: Of the pixels that no class is asked for; mmseg's own.
IGNORED = 255


class CheckedMaps:
    """Refuses a folder in which something is missing, before training starts; stands before mmseg's data sets."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """The samples; each knows how many classes its map may hold.

        Raises:
            UserError: A folder, an image or a label map is missing, or there is no image at all.
        """
        folders = {key: self.data_prefix[key] for key in ("img_path", "seg_map_path") if self.data_prefix.get(key)}
        for key, folder in folders.items():
            if not Path(folder).is_dir():
                raise UserError(
                    f"{key} of {type(self).__name__}: folder {folder} does not exist: unpack the data set there, or "
                    "set data_root (docs/segmentation.md)."
                )
        rows = super().load_data_list()
        if not rows:
            raise UserError(f"{folders['img_path']} holds no image *{self.img_suffix}: unpack the data set again.")
        for name, key in (("image", "img_path"), ("label map", "seg_map_path")):
            missing = [row[key] for row in rows if key in row and not Path(row[key]).is_file()]
            if missing:
                raise UserError(
                    f"{len(missing)} of {len(rows)} {name}s do not exist, first {missing[0]}: the data set was "
                    "unpacked only in part."
                )
        for row in rows:
            row["num_classes"] = len(self.metainfo["classes"])
        return rows


@DATASETS.register_module()
class ADE20K(CheckedMaps, ADE20KDataset):
    """mmseg's ``ADE20KDataset``, checked: 150 classes; 0 in a map belongs to none of them and is ignored.

    The public layout, ``ADEChallengeData2016``::

        <data_root>/images/{training,validation}/ADE_*.jpg
        <data_root>/annotations/{training,validation}/ADE_*.png
    """


@DATASETS.register_module()
class SceneMaps(CheckedMaps, BaseSegDataset):
    """The embedded scenes with label maps: 0 is the background, then :data:`~vpeft.core.datasets.scenes.CLASSES`.

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
        ensure(data_root, write_scenes)
        folders = {"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"}
        super().__init__(img_suffix=".png", data_root=data_root, data_prefix=folders, **kwargs)


def write_scenes(folder: Path) -> None:
    """Draw all splits of the embedded scenes into a folder, in ADE20K's layout, with the colours in the maps."""
    palette = np.array(SceneMaps.METAINFO["palette"], dtype=np.uint8).tobytes()
    for split in SPLITS:
        images, maps = folder / "images" / split, folder / "annotations" / split
        images.mkdir(parents=True)
        maps.mkdir(parents=True)
        for number, scene in enumerate(draw_split(split)):
            Image.fromarray(scene.image).save(images / f"{number:04d}.png")
            label_map = Image.fromarray(scene.label_map)
            label_map.putpalette(palette)
            label_map.save(maps / f"{number:04d}.png")


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
