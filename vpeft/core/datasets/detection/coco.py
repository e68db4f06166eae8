"""mmdet's COCO and VOC data sets with checks, and the embedded scenes read by them.

mmdet is needed to import this, so configs ask for it:
``custom_imports = dict(imports=["vpeft", "vpeft.core.datasets.detection.coco"])``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmengine.logging import MMLogger

from vpeft.errors import UserError
from vpeft.registry import DATASETS

LAYOUT = "see docs/detection.md for the layout"


@DATASETS.register_module()
class CheckedCoco(CocoDataset):
    """mmdet's ``CocoDataset``, which says what is wrong with the files instead of leaving it out or shifting labels.

    As mmdet documents: boxes wholly outside their image, crowds and images without boxes are left out of training;
    in testing all images count. Categories that the config does not name are left out, here with a warning.

    Raises:
        UserError: The annotation file is missing, broken or contradicts itself; it lacks a class of the config or
            lists the classes in another order, which mmdet would give wrong labels; images are missing.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """The samples, after the checks."""
        if self.backend_args is None:
            check_coco(Path(self.ann_file), list(self.metainfo["classes"]))
        samples = super().load_data_list()
        if self.backend_args is None:
            check_images([sample["img_path"] for sample in samples], self.ann_file)
        return samples


def check_coco(path: Path, classes: list[str]) -> None:
    """Check an annotation file against the ``classes`` of a config.

    Raises:
        UserError: As :class:`CheckedCoco`.
    """
    if not path.is_file():
        raise UserError(f"annotation file {path} does not exist: set data_root and ann_file; {LAYOUT}.")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"annotation file {path} is truncated or no JSON ({error}): unpack it again.") from error
    parts = ("images", "annotations", "categories")
    missing = parts if not isinstance(content, dict) else [part for part in parts if part not in content]
    if missing:
        raise UserError(f"annotation file {path} lacks {', '.join(missing)}: it is no COCO instances file; {LAYOUT}.")
    try:
        names = {category["id"]: category["name"] for category in content["categories"]}
        images = {image["id"]: image["file_name"] for image in content["images"]}
        for number, one in enumerate(content["annotations"]):
            _check_annotation(one, names, images, f"annotation file {path}: annotation {one.get('id', number)}")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"annotation file {path}: an entry lacks {error} or is of another form; {LAYOUT}.") from error
    absent = [name for name in classes if name not in names.values()]
    if absent:
        raise UserError(
            f"annotation file {path} has no category {', '.join(map(repr, absent))} (it has {list(names.values())}), "
            "so that labels would be shifted: set metainfo.classes and num_classes of the heads to its categories."
        )
    known = [name for name in names.values() if name in classes]
    if known != classes:
        raise UserError(
            f"annotation file {path} lists the categories in another order ({known}) than the config ({classes}), and "
            "mmdet numbers labels by the file: set metainfo.classes to the file's order."
        )
    other = Counter(names[one["category_id"]] for one in content["annotations"])
    _say_unknown({name: count for name, count in other.items() if name not in classes}, str(path))


def _check_annotation(one: dict[str, Any], names: dict[int, str], images: dict[int, str], where: str) -> None:
    if one["category_id"] not in names:
        raise UserError(f"{where} is of category {one['category_id']}, which the file does not define: mend the file.")
    if one["image_id"] not in images:
        raise UserError(f"{where} is of image {one['image_id']}, which the file does not list: mend the file.")
    box = one["bbox"]
    if len(box) != 4 or not all(math.isfinite(value) for value in box) or "area" not in one:
        raise UserError(f"{where} needs an area and a bbox of four numbers, it has {box}: mend the file.")


def _say_unknown(counts: dict[str, int], where: str) -> None:
    if counts:
        MMLogger.get_current_instance().warning(
            f"{where}: {sum(counts.values())} boxes of classes that the config does not name are left out: {counts}"
        )


def check_images(paths: list[str], where: str) -> None:
    """Check that the images of a list exist.

    Raises:
        UserError: Some do not.
    """
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(paths)} images of {where} are missing, first {missing[0]}: unpack the archive "
            f"again or set data_prefix; {LAYOUT}."
        )


def _lies_inside(box: list[int], width: int, height: int) -> bool:
    """Whether a part of the box with an area lies in the image."""
    return min(box[2], width) > max(box[0], 0) and min(box[3], height) > max(box[1], 0)
