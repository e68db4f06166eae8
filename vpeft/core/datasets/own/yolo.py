"""YOLO folders: a text file of boxes or outlines for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vpeft.core.datasets.own.coco_file import TOLERANCE, inside_box
from vpeft.core.datasets.own.found import PARTS, TRAIN, OwnData, OwnSample, need_classes, some
from vpeft.core.datasets.own.walk import files_below, folder_entries, is_image
from vpeft.errors import UserError, printable
from vpeft.files import read_text

#: Files that name the classes.
NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "classes.txt", "obj.names")
IMAGES, LABELS = "images", "labels"


def is_yolo(root: Path) -> bool:
    """Whether a folder has text files below ``labels/`` and images below ``images/`` (here, or in folders of parts)."""
    return bool(_pairs(root))


def yolo_folder(root: Path, family: str | None = None) -> OwnData:
    """Read a YOLO folder: ``images/`` and ``labels/`` with parts inside or above, the classes in ``data.yaml``.

    A line is ``class x y width height`` or ``class x y x y x y ...``, in shares of the image's sides. An image without
    a text file, or with an empty one, shows no object.

    Raises:
        UserError: A line is malformed, a class out of range, a box outside its image; the line says where.
    """
    from vpeft.core.datasets.own.inspect import image_size

    names, notes = _class_names(root), []
    samples, polygons, boxes, cut, bare, taken = [], 0, 0, 0, 0, set()
    for part, images, labels in _pairs(root):
        for image in filter(is_image, files_below(images, root)):
            text = labels / image.relative_to(images).with_suffix(".txt")
            taken.add(text)
            lines = _lines(text, len(names)) if text.is_file() else []
            bare += not lines
            polygons += sum(len(line) > 5 for line in lines)
            boxes += sum(len(line) == 5 for line in lines)
            size = image_size(image)
            lines = lines if size else []  # of an image that cannot be read, which is said and left out
            found = [_object(line, size, f"{printable(text)}:{number}") for number, line in enumerate(lines, start=1)]
            cut += sum(was_cut for _, was_cut in found)
            objects = tuple(one for one, _ in found)
            named = tuple(sorted({one["category_id"] for one in objects}))
            samples.append(OwnSample(image, named, part, objects=objects, size=size))
        lost = [
            file
            for file in files_below(labels, root)
            if file.suffix == ".txt" and file.name not in NAMES and file not in taken
        ]
        if lost:
            raise UserError(
                f"{len(lost)} files of labels are of no image, first {printable(lost[0])}: give images the same names."
            )
    masks = (not boxes and bool(polygons)) if family is None else family == "instances"
    if masks and boxes:
        raise UserError(
            f"{printable(root)}: {boxes} of {boxes + polygons} objects are boxes without an outline: --family "
            "detection takes the boxes."
        )
    if not boxes + polygons:
        raise UserError(f"{printable(root)}: no text file below {LABELS}/ has a line: there is no object.")
    if polygons and not masks:
        notes.append(f"{polygons} of {polygons + boxes} objects are outlines: their boxes are taken")
        strip = lambda one: {k: v for k, v in one.items() if k != "segmentation"}  # noqa: E731
        samples = [
            OwnSample(s.path, s.labels, s.part, objects=tuple(map(strip, s.objects)), size=s.size) for s in samples
        ]
    notes += [f"{cut:,} boxes stand over the edge of their image and are cut there"] * bool(cut)
    notes += [f"{bare:,} images have no object"] * bool(bare)
    kind = f"YOLO folder of {'outlines' if masks else 'boxes'}"
    return OwnData(kind, "instances" if masks else "detection", root, names, tuple(samples), notes=tuple(notes))


def _pairs(root: Path) -> list[tuple[str | None, Path, Path]]:
    """Parts, with their folders of images and of labels."""
    found: list[tuple[str | None, Path, Path]] = []
    tops = {f.name.lower(): f for f in folder_entries(root, root)[0]}
    if IMAGES in tops and LABELS in tops:
        inside = {f.name.lower(): f for f in folder_entries(tops[IMAGES], root)[0]}
        named = {PARTS[name]: folder for name, folder in inside.items() if name in PARTS}
        pairs = {part: (folder, tops[LABELS] / folder.name) for part, folder in named.items()}
        found = [(part, *pair) for part, pair in pairs.items() if pair[1].is_dir()]
        found = found or [(None, tops[IMAGES], tops[LABELS])]
    for name, folder in tops.items():
        if name in PARTS:
            inside = {f.name.lower(): f for f in folder_entries(folder, root)[0]}
            if IMAGES in inside and LABELS in inside:
                found.append((PARTS[name], inside[IMAGES], inside[LABELS]))
    texts = any(file.suffix == ".txt" for _, _, labels in found for file in files_below(labels, root))
    if not texts:
        return []
    if any(part for part, *_ in found) and TRAIN not in [part for part, *_ in found]:
        raise UserError(
            f"{printable(root)} has {some([str(part) for part, *_ in found])} and no {TRAIN} part: there is nothing "
            "to learn from."
        )
    return found


def _class_names(root: Path) -> tuple[str, ...]:
    file = next(
        (folder / name for folder in (root, root / LABELS) for name in NAMES if (folder / name).is_file()), None
    )
    if file is None:
        raise UserError(
            f"{printable(root)}: no data.yaml and no classes.txt names the classes: write one (names: [cat, dog])."
        )
    text = read_text(file, "names of classes")
    if file.suffix not in (".yaml", ".yml"):
        return need_classes([line.strip() for line in text.splitlines() if line.strip()], printable(file), least=1)
    try:
        stated: Any = yaml.safe_load(text)
        names = stated["names"]
        if isinstance(names, dict):
            if sorted(names) != list(range(len(names))):
                raise ValueError(f"the numbers of the classes are {some(sorted(names))} and not 0 to {len(names) - 1}")
            names = [names[i] for i in range(len(names))]
        if not isinstance(names, list):
            raise TypeError("names is no list")
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{printable(file)} names no classes ({said}): write `names: [cat, dog]`.") from error
    return need_classes(names, printable(file), least=1)


def _lines(file: Path, classes: int) -> list[list[float]]:
    """The lines of a file of labels: the class, then numbers."""
    from vpeft.files import unreadable

    if unreadable(file) == "is empty":
        return []
    found = []
    for number, text in enumerate(read_text(file, "labels").splitlines(), start=1):
        if not text.strip():
            continue
        where = f"{printable(file)}:{number}"
        try:
            line = [float(word) for word in text.split()]
        except ValueError:
            line = []
        if not all(map(math.isfinite, line)) or not (len(line) == 5 or (len(line) >= 7 and len(line) % 2)):
            raise UserError(
                f"{where}: {printable(text[:60])!r} is neither `class x y width height` nor a class with three or "
                "more points."
            )
        if line[0] != int(line[0]) or not 0 <= line[0] < classes:
            raise UserError(f"{where}: the class {line[0]:g} is out of range: the classes are 0 to {classes - 1}.")
        if max(map(abs, line[1:])) > 2:
            raise UserError(f"{where}: {max(line[1:], key=abs):g} is no share of the image's side: numbers are 0 to 1.")
        found.append(line)
    return found


def _object(line: Sequence[float], size: tuple[int, int], where: str) -> tuple[dict[str, Any], bool]:
    """A line as COCO's annotation with the number of its class; and whether its box was cut."""
    width, height = size
    label, polygon = int(line[0]), []
    if len(line) == 5:
        x, y, w, h = (value * side for value, side in zip(line[1:], (width, height) * 2, strict=True))
        box = [x - w / 2, y - h / 2, w, h]
        area = w * h
    else:
        polygon = [value * side for value, side in zip(line[1:], (width, height) * (len(line) // 2), strict=True)]
        xs, ys = polygon[::2], polygon[1::2]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        area = abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2
    box, was_cut = inside_box(box, size, where)
    edges = {"segmentation": [polygon]} if polygon else {}
    over = was_cut and _over(line, size)
    return {"category_id": label, "bbox": box, "area": area, "iscrowd": 0, **edges}, over


def _over(line: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box stands further over an edge than rounding makes it."""
    if len(line) != 5:
        return True
    x, y, w, h = line[1:]
    over = max((w / 2 - x, x + w / 2 - 1)) * size[0], max((h / 2 - y, y + h / 2 - 1)) * size[1]
    return max(over) > TOLERANCE
