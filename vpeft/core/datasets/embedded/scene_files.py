"""Scenes as files for detection, in the public layouts of COCO and PASCAL VOC."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from PIL import Image

from vpeft.core.datasets.embedded.scenes import CLASSES, SPLITS, Scene, draw_split

#: ``f(split, size, seed)`` gives the scenes of a split.
Draw = Callable[[str, int, int], Sequence[Scene]]


def write_coco(root: Path, sizes: Mapping[str, int] = SPLITS, seed: int = 0, draw: Draw = draw_split) -> None:
    """Write ``<split>/<number>.png`` and ``annotations/instances_<split>.json`` with boxes and masks (RLE).

    Args:
        root: A folder that exists.
        sizes: How many images each split has.
        seed: Seed of the drawing.
        draw: Draws the scenes of a split.
    """
    (root / "annotations").mkdir()
    for split, size in sizes.items():
        (root / split).mkdir()
        images, annotations = [], []
        for number, scene in enumerate(draw(split, size, seed)):
            name = f"{number:06}.png"
            Image.fromarray(scene.image).save(root / split / name)
            height, width = scene.image.shape[:2]
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for one in coco_objects(scene):
                annotations.append({"id": len(annotations) + 1, "image_id": number, **one})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def coco_objects(scene: Scene) -> list[dict[str, Any]]:
    """The objects of a scene as COCO annotations without identity: class, box, area and mask."""
    from pycocotools import mask as coco_mask

    found = []
    for label, mask, (x1, y1, x2, y2) in zip(scene.labels, scene.masks, scene.boxes.tolist(), strict=True):
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        found.append(
            {
                "category_id": int(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(mask.sum()),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                "iscrowd": 0,
            }
        )
    return found


def write_voc(root: Path, sizes: Mapping[str, int] = SPLITS, seed: int = 0) -> None:
    """Write ``JPEGImages/*.jpg``, ``Annotations/*.xml`` and ``ImageSets/Main/<split>.txt``; corners count from 1.

    Args:
        root: A folder that exists.
        sizes: How many images each split has.
        seed: Seed of the drawing.
    """
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, size in sizes.items():
        names = [f"{split}_{number:06}" for number in range(size)]
        for name, scene in zip(names, draw_split(split, size, seed), strict=True):
            Image.fromarray(scene.image).save(root / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
            (root / "Annotations" / f"{name}.xml").write_bytes(_voc_xml(name, scene))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _voc_xml(name: str, scene: Scene) -> bytes:
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = f"{name}.jpg"
    size = ET.SubElement(root, "size")
    for key, value in zip(("height", "width", "depth"), scene.image.shape, strict=True):
        ET.SubElement(size, key).text = str(value)
    for label, (x1, y1, x2, y2) in zip(scene.labels, scene.boxes.tolist(), strict=True):
        thing = ET.SubElement(root, "object")
        ET.SubElement(thing, "name").text = CLASSES[label]
        ET.SubElement(thing, "difficult").text = "0"
        box = ET.SubElement(thing, "bndbox")
        # The first pixel is 1, and the last one is still inside.
        for key, value in {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}.items():
            ET.SubElement(box, key).text = str(value)
    ET.indent(root)
    return ET.tostring(root)
