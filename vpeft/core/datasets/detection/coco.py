"""mmdet's COCO and VOC data sets with checks, and the embedded scenes read by them.

mmdet is needed to import this, so configs ask for it:
``custom_imports = dict(imports=["vpeft", "vpeft.core.datasets.detection.coco"])``.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmengine.logging import MMLogger

from vpeft.core.datasets.detection.outlines import is_finite_number, is_size, outline_fault
from vpeft.core.datasets.load.lines import check_name, cut
from vpeft.errors import UserError
from vpeft.files import read_json
from vpeft.registry import DATASETS

LAYOUT = "see docs/detection.md for the layout"


@DATASETS.register_module()
class CheckedCoco(CocoDataset):
    """mmdet's ``CocoDataset``, which says what is wrong with the files instead of leaving it out or shifting labels.

    As mmdet documents: boxes wholly outside their image, crowds and images without boxes are left out of training;
    in testing all images count. Categories that the config does not name are left out, here with a warning.

    Raises:
        UserError: The annotation file is missing, broken or contradicts itself; it lacks a class of the config or
            lists the classes in another order, which mmdet would give wrong labels; images are missing; the pipeline
            loads masks, and a box has none.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """The samples, after the checks."""
        if self.backend_args is None:
            check_coco(Path(self.ann_file), list(self.metainfo["classes"]))
        try:
            samples = super().load_data_list()
        except Exception as error:  # pycocotools and mmdet check nothing of what they read
            raise UserError(
                f"annotation file {self.ann_file} cannot be read ({type(error).__name__}: {error}); {LAYOUT}."
            ) from error
        if self.backend_args is None:
            check_images([sample["img_path"] for sample in samples], self.ann_file)
        if any(getattr(step, "with_mask", False) for step in self.pipeline.transforms):
            check_masks(samples, self.ann_file)
        return samples

    def filter_data(self) -> list[dict[str, Any]]:
        """The samples that ``filter_cfg`` leaves, at least one."""
        return need_some(super().filter_data(), self.data_list, f"annotation file {self.ann_file}", self.filter_cfg)


def check_coco(path: Path, classes: list[str]) -> None:
    """Check an annotation file against the ``classes`` of a config.

    Raises:
        UserError: As :class:`CheckedCoco`.
    """
    content = read_json(path, "annotation file", f"set data_root and ann_file; {LAYOUT}")
    check_content(path, content)
    names = {category["id"]: category["name"] for category in content["categories"]}
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


def check_content(path: Path, content: Any) -> None:
    """Check what was read from an annotation file: its form, its ids, its sizes and boxes.

    Args:
        path: The file, for messages.
        content: What it holds.

    Raises:
        UserError: It is no COCO file, or contradicts itself.
    """
    parts = ("images", "annotations", "categories")
    missing = parts if not isinstance(content, dict) else [part for part in parts if part not in content]
    if missing:
        raise UserError(f"annotation file {path} lacks {', '.join(missing)}: it is no COCO instances file; {LAYOUT}.")
    where = f"annotation file {path}"
    try:
        for part in parts:
            _check_ids([one["id"] for one in content[part]], f"{where}: {part}")
        names = {category["id"]: category["name"] for category in content["categories"]}
        images = {image["id"]: image for image in content["images"]}
        for image in content["images"]:
            _check_image(image, f"{where}: image {image['id']}")
        for one in content["annotations"]:
            _check_annotation(one, names, images, f"{where}: annotation {one['id']}")
    except KeyError as error:
        raise UserError(f"{where}: an entry lacks {error}; {LAYOUT}.") from error
    except (TypeError, AttributeError) as error:
        raise UserError(f"{where}: an entry is of another form ({error}); {LAYOUT}.") from error


def _check_ids(ids: list[Any], where: str) -> None:
    """Of two entries with one identity, readers take the last one, or both twice."""
    double, count = Counter(ids).most_common(1)[0] if ids else (None, 1)
    if count > 1:
        raise UserError(f"{where} holds {count} entries with the id {cut(double)}: mend the file.")


def _check_image(image: dict[str, Any], where: str) -> None:
    check_name(image["file_name"], where)
    size = image["height"], image["width"]
    if not is_size(*size):
        raise UserError(f"{where} needs height and width in whole pixels, it has {cut(size)}: mend the file.")


def _check_annotation(
    one: dict[str, Any], names: dict[int, str], images: dict[int, dict[str, Any]], where: str
) -> None:
    if one["category_id"] not in names:
        raise UserError(f"{where} is of category {one['category_id']}, which the file does not define: mend the file.")
    if one["image_id"] not in images:
        raise UserError(f"{where} is of image {one['image_id']}, which the file does not list: mend the file.")
    box, area = one["bbox"], one["area"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite_number, (*box, area))):
        raise UserError(
            f"{where} needs an area and a bbox of four numbers, it has {cut(area)} and {cut(box)}: mend the file."
        )
    image, outline = images[one["image_id"]], one.get("segmentation")
    if (said := outline_fault(outline, (image["height"], image["width"]))) is not None:
        raise UserError(f"{where} has the segmentation {cut(outline)}, which {said}: mend it.")


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
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(paths)} images of {where} are missing, first {missing[0]}: unpack the archive "
            f"again or set data_prefix; {LAYOUT}."
        )


def check_masks(samples: list[dict[str, Any]], where: str) -> None:
    """Check that every box has its outline.

    Raises:
        UserError: Some have none.
    """
    bare = [sample["img_path"] for sample in samples for one in sample["instances"] if "mask" not in one]
    if bare:
        raise UserError(
            f"{where}: {len(bare)} of the boxes have no segmentation, first one on {bare[0]}, and the pipeline loads "
            "masks: mend the file, or take a recipe of boxes (with_mask=False)."
        )


def need_some(
    kept: list[dict[str, Any]], listed: list[dict[str, Any]], where: str, filter_cfg: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """``kept``, the samples that a filter leaves of those ``listed``.

    Raises:
        UserError: There are none; the message says what was left out, and why.
    """
    if kept:
        return kept
    if not listed:
        raise UserError(f"{where} lists no images: unpack it again, or name another file.")
    least = (filter_cfg or {}).get("min_size", 0)
    bare = sum(not sample["instances"] for sample in listed)
    small = sum(min(sample["width"], sample["height"]) < least for sample in listed)
    raise UserError(
        f"{where}: filter_cfg={dict(filter_cfg or {})} leaves none of its {len(listed)} images: {bare} hold no box of "
        f"the classes of the config, {small} are smaller than min_size={least}. Change filter_cfg or the classes."
    )


def _lies_inside(box: list[int], width: int, height: int) -> bool:
    """Whether a part of the box with an area lies in the image."""
    return min(box[2], width) > max(box[0], 0) and min(box[3], height) > max(box[1], 0)
