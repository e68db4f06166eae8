"""PASCAL VOC, checked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from mmdet.datasets import VOCDataset

from vpeft.core.datasets.detection.coco import LAYOUT, _lies_inside, _say_unknown, check_images, need_some
from vpeft.core.datasets.load.lines import check_name, list_lines
from vpeft.errors import UserError
from vpeft.files import need_file
from vpeft.registry import DATASETS


@DATASETS.register_module()
class CheckedVOC(VOCDataset):
    """mmdet's ``VOCDataset``, which says what is wrong with the files.

    As ``CocoDataset`` does, and unlike ``VOCDataset``, training leaves out boxes wholly outside their image or without
    an area: anchors would be assigned to them at random. In testing they count as missed. Objects of classes that the
    config does not name are left out with a warning.

    Raises:
        UserError: The list, an image or an annotation is missing or broken.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """The samples, after the checks."""
        if self.backend_args is not None:
            return super().load_data_list()
        listed = Path(self.ann_file)
        lines = list(list_lines(listed, "list of images", f"set data_root and ann_file; {LAYOUT}"))
        if not lines:
            raise UserError(f"list of images {listed} is empty: unpack it again.")
        for where, name in lines:
            check_name(f"{name}.jpg", where)
        names = [name for _, name in lines]
        root = Path(self.sub_data_root)
        check_images([str(root / self.img_subdir / f"{name}.jpg") for name in names], str(listed))
        self.unknown: Counter[str] = Counter()
        samples = super().load_data_list()
        _say_unknown(dict(self.unknown), str(listed))
        return samples

    def filter_data(self) -> list[dict[str, Any]]:
        """The samples that ``filter_cfg`` leaves, at least one."""
        return need_some(super().filter_data(), self.data_list, f"list of images {self.ann_file}", self.filter_cfg)

    def parse_data_info(self, img_info: dict[str, Any]) -> dict[str, Any]:
        """One sample."""
        path = Path(img_info["xml_path"])
        if self.backend_args is None:
            need_file(path, "annotation", f"unpack the archive again; {LAYOUT}")
            try:
                root = ET.parse(path).getroot()
                sample = super().parse_data_info(img_info)
            except Exception as error:  # readers of XML raise whatever a broken file makes them stumble over
                raise UserError(f"annotation {path} is broken ({error}): unpack the archive again.") from error
            if root.find("size") is None and root.find("object") is None:
                raise UserError(f"annotation {path} holds neither a size nor an object: unpack the archive again.")
            found = Counter(thing.findtext("name") for thing in root.iter("object"))
            self.unknown.update({name: count for name, count in found.items() if name not in self.metainfo["classes"]})
        else:
            sample = super().parse_data_info(img_info)
        if not self.test_mode:
            size = sample["width"], sample["height"]
            sample["instances"] = [one for one in sample["instances"] if _lies_inside(one["bbox"], *size)]
        return sample
