"""Label maps: ADE20K in its public layout, the embedded scenes in the same, and a reader that checks what it reads.

Importing this module needs mmsegmentation; configs name it in ``custom_imports``.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from rich.console import Console
from rich.progress import track

from vpeft.core.datasets.load.label_map import LoadLabelMap, count_classes, map_header
from vpeft.errors import UserError


class CheckedMaps:
    """Refuses a folder in which something is missing, before training starts; stands before mmseg's data sets."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """The samples; each knows how many classes its map may hold.

        Raises:
            UserError: A folder, an image or a label map is missing, or there is no image at all.
        """
        folders = {key: self.data_prefix[key] for key in ("img_path", "seg_map_path") if self.data_prefix.get(key)}
        for key, folder in folders.items():
            if not os.path.isdir(folder):
                raise UserError(
                    f"{key} of {type(self).__name__}: folder {folder} does not exist: unpack the data set there, or "
                    "set data_root (docs/segmentation.md)."
                )
        rows = super().load_data_list()
        if not rows:
            raise UserError(f"{folders['img_path']} holds no image *{self.img_suffix}: unpack the data set again.")
        for name, key in (("image", "img_path"), ("label map", "seg_map_path")):
            missing = [row[key] for row in rows if key in row and not os.path.isfile(row[key])]
            if missing:
                raise UserError(
                    f"{len(missing)} of {len(rows)} {name}s do not exist, first {missing[0]}: the data set was "
                    "unpacked only in part."
                )
        for row in rows:
            row["num_classes"] = len(self.metainfo["classes"])
        return rows


def count_values(dataset: BaseSegDataset, classes: int, ignored: Collection[int], where: str) -> np.ndarray | None:
    """Pixels of each class in all label maps of a data set, as its pipeline reads them; several are read at a time.

    Args:
        dataset: Any of mmseg's.
        classes: Classes of the head.
        ignored: Values that the head and its losses leave out.
        where: The field of the config that it is of, for messages.

    Returns:
        ``(classes,)``; None where the pipeline does not read label maps by mmseg's ``LoadAnnotations``.

    Raises:
        UserError: A map is missing or broken, has several bytes a pixel, which mmseg would cut to one, or holds a
            value that is none of the classes and not ignored; the message names the file.
    """
    reader = next((step for step in dataset.pipeline.transforms if isinstance(step, LoadAnnotations)), None)
    if reader is None:
        return None
    known = type(reader)._load_seg_map in (LoadAnnotations._load_seg_map, LoadLabelMap._load_seg_map)

    def count(index: int) -> np.ndarray:
        info = dataset.get_data_info(index)
        path = info["seg_map_path"]
        if known and reader.backend_args is None:
            info["ori_shape"] = map_header(path)
        try:
            label_map = reader.transform(info)["gt_seg_map"]
        except UserError:
            raise
        except Exception as error:  # as above: whatever a broken file makes decoders stumble over
            raise UserError(f"{where}: label map {path} cannot be read ({error}): unpack it again.") from error
        return count_classes(label_map, classes, ignored, bool(reader.reduce_zero_label), path)

    console = Console(stderr=True)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        counts = threads.map(count, range(len(dataset)))
        text = f"label maps of {where}"
        return sum(track(counts, text, len(dataset), console=console, disable=not console.is_terminal))
