"""COCO files of boxes or masks, with their images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vpeft.core.datasets.own.found import TRAIN, OwnData, OwnSample, need_classes, part_of, some
from vpeft.core.datasets.own.walk import folder_entries
from vpeft.errors import UserError, printable
from vpeft.files import read_json

#: What a COCO file of objects holds.
KEYS = ("images", "annotations", "categories")
#: Pixels that a box may stand over the edge of its image without being a mistake; it is cut there.
TOLERANCE = 2.0
#: The share of its area that a box must have inside.
INSIDE = 0.5
#: Bytes at the start of a file in which its kind is looked for, before all of it is read.
_START = 1 << 16


def coco_files(folder: Path) -> list[Path]:
    """The COCO files in a folder: right in it, in ``annotations/`` and in folders of parts."""
    folders, files = folder_entries(folder, folder)
    inside = [folder_entries(f, folder)[1] for f in folders if f.name.lower() == "annotations" or part_of(f.name)]
    found = [file for file in (*files, *(one for files in inside for one in files)) if is_coco(file)]
    instances = [file for file in found if file.stem.startswith("instances")]
    return instances or found


def is_coco(file: Path) -> bool:
    """Whether a file is JSON whose first lines have one of COCO's keys; nothing else of it is read."""
    if file.suffix.lower() != ".json" or not file.is_file():
        return False
    with open(file, "rb") as opened:
        start = opened.read(_START)
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and any(
        f'"{key}"'.encode() in start for key in (*KEYS, "licenses")
    )


def coco_data(files: Sequence[Path], root: Path, family: str | None = None) -> OwnData:
    """Read COCO files, one for each part or one for all.

    Args:
        files: The files.
        root: Folder that images are looked for in, besides the files' own.
        family: ``detection`` takes the boxes where there are masks too; ``instances`` needs masks.

    Raises:
        UserError: A file is broken or contradicts itself, files of one part or other categories meet, images are
            missing, or a box is outside its image; the line says where.
    """
    parts = _parts(files)
    contents = {file: _content(file) for file in files}
    names = [_names(content) for content in contents.values()]
    if any(other != names[0] for other in names):
        raise UserError(f"{some(files)} have other categories: give all the same, under the same ids.")
    used = Counter(one["category_id"] for content in contents.values() for one in content["annotations"])
    ids = [identity for identity in names[0] if used[identity]]
    if not ids:
        raise UserError(f"{some(files)}: there is no annotation: nothing to learn from.")
    notes = [f"the category {names[0][i]!r} has no object: no class is made of it" for i in names[0] if not used[i]]
    has_masks = [bool(one.get("segmentation")) for content in contents.values() for one in content["annotations"]]
    masks = all(has_masks) if family is None else family == "instances"
    if masks and not all(has_masks):
        raise UserError(
            f"{some(files)}: {has_masks.count(False)} of {len(has_masks)} objects have no mask: --family detection "
            "takes the boxes."
        )
    if family is None and any(has_masks) and not masks:
        notes.append(f"{has_masks.count(True)} of {len(has_masks)} objects have masks: the boxes alone are taken")
    classes = need_classes([names[0][i] for i in ids], printable(files[0]), least=1)
    samples = [
        sample
        for file, content in contents.items()
        for sample in _samples(content, _images(file, root, content), parts[file], ids, masks, file, notes)
    ]
    kind = f"COCO file{'s' if len(files) > 1 else ''} of {'masks' if masks else 'boxes'}"
    folder = Path(os.path.commonpath([root, *(sample.path.parent for sample in samples)]))
    return OwnData(kind, "instances" if masks else "detection", folder, classes, tuple(samples), notes=tuple(notes))


def _parts(files: Sequence[Path]) -> dict[Path, str | None]:
    """Which part each file is of."""
    if len(files) == 1:
        part = part_of(files[0].stem) or part_of(files[0].parent.name)
        return {files[0]: part if part == TRAIN else None}
    parts = {file: part_of(file.stem) or part_of(file.parent.name) for file in files}
    unclear = [file for file, part in parts.items() if part is None or list(parts.values()).count(part) > 1]
    if unclear:
        raise UserError(
            f"several COCO files, and {some(unclear)} are of no part, or of one: name them train, val and test, or "
            "give one."
        )
    if TRAIN not in parts.values():
        raise UserError(f"{some(files)}: none is of the part {TRAIN}: there is nothing to learn from.")
    return parts


def _content(file: Path) -> dict[str, Any]:
    from vpeft.core.datasets.detection.coco import check_content

    content = read_json(file, "annotation file")
    for one in content.get("annotations", ()) if isinstance(content, dict) else ():
        if isinstance(one, dict) and isinstance(box := one.get("bbox"), list) and len(box) == 4:
            one.setdefault("area", box[2] * box[3] if all(isinstance(n, (int, float)) for n in box) else None)
    check_content(file, content)
    return content


def _names(content: dict[str, Any]) -> dict[int, str]:
    return {category["id"]: str(category["name"]) for category in content["categories"]}


def _images(file: Path, root: Path, content: dict[str, Any]) -> Path:
    """The folder in which a file's images are."""
    names = [image["file_name"] for image in content["images"]]
    if not names:
        raise UserError(f"annotation file {printable(file)} lists no images.")
    stem = file.stem.removeprefix("instances_")
    bases = dict.fromkeys((file.parent, file.parent.parent, root))
    inside = (
        "",
        stem,
        "images",
        f"images/{stem}",
        part_of(stem) or "",
        f"images/{part_of(stem) or ''}",
        "imgs",
        "data",
    )
    tried = list(dict.fromkeys(base / one for base in bases for one in inside))
    counts = {folder: sum((folder / name).is_file() for name in names[:50]) for folder in tried if folder.is_dir()}
    best = max(counts, key=counts.get)
    missing = [name for name in names if not (best / name).is_file()]
    if missing:
        where = f"in {printable(best)}" if counts[best] else f"in {some([str(folder) for folder in counts])}"
        raise UserError(
            f"annotation file {printable(file)}: {len(missing)} of {len(names)} images do not exist {where}, first "
            f"{printable(missing[0])}: put them beside the file, or into images/."
        )
    return best


def _samples(
    content: dict[str, Any],
    folder: Path,
    part: str | None,
    ids: Sequence[int],
    masks: bool,
    file: Path,
    notes: list[str],
) -> Iterator[OwnSample]:
    objects: dict[Any, list[dict[str, Any]]] = {}
    for one in content["annotations"]:
        objects.setdefault(one["image_id"], []).append(one)
    cut = 0
    for image in content["images"]:
        size = image["width"], image["height"]
        found = [
            _object(one, size, ids, masks, f"annotation file {printable(file)}: annotation {one['id']}")
            for one in objects.get(image["id"], ())
        ]
        cut += sum(was_cut for _, was_cut in found)
        labels = tuple(sorted({one["category_id"] for one, _ in found}))
        yield OwnSample(folder / image["file_name"], labels, part, objects=tuple(one for one, _ in found), size=size)
    if cut:
        notes.append(f"{cut:,} boxes stand over the edge of their image and are cut there")


def _object(
    one: dict[str, Any], size: tuple[int, int], ids: Sequence[int], masks: bool, where: str
) -> tuple[dict[str, Any], bool]:
    """An object with the number of its class, its box inside the image; and whether the box was cut."""
    box, was_cut = inside_box(one["bbox"], size, where)
    kept = {
        "category_id": ids.index(one["category_id"]),
        "bbox": box,
        "area": one["area"],
        "iscrowd": int(bool(one.get("iscrowd"))),
    }
    return kept | ({"segmentation": one["segmentation"]} if masks else {}), was_cut


def inside_box(box: Sequence[float], size: tuple[int, int], where: str) -> tuple[list[float], bool]:
    """A box ``x, y, width, height`` cut at the edges of its image, and whether it was cut.

    Raises:
        UserError: It has no area, or less than half of it lies inside.
    """
    x, y, width, height = box
    if width <= 0 or height <= 0:
        raise UserError(f"{where}: the box {list(box)} has no area: mend or delete it.")
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + width, float(size[0])), min(y + height, float(size[1]))
    inside = max(right - left, 0.0) * max(bottom - top, 0.0)
    over = max(left - x, top - y, x + width - right, y + height - bottom)
    if over > TOLERANCE and inside < INSIDE * width * height:
        raise UserError(
            f"{where}: the box {list(box)} lies outside its image of {size[0]} x {size[1]} pixels: mend or delete it."
        )
    return ([left, top, right - left, bottom - top], True) if over > 0 else (list(box), False)


def file_of(samples: Iterable[OwnSample], classes: Sequence[str], root: Path) -> dict[str, Any]:
    """A COCO file of samples; names of images are below ``root``, ids count from 1."""
    images, annotations = [], []
    for number, sample in enumerate(samples, start=1):
        width, height = sample.size
        images.append({"id": number, "file_name": os.path.relpath(sample.path, root), "width": width, "height": height})
        for one in sample.objects:
            annotations.append(
                {**one, "id": len(annotations) + 1, "image_id": number, "category_id": one["category_id"] + 1}
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}
