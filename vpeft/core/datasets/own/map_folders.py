"""A folder of images and one of label maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from vpeft.core.datasets.own.found import PARTS, TRAIN, OwnData, OwnSample, need_classes, some
from vpeft.core.datasets.own.walk import files_below, folder_entries, is_image
from vpeft.errors import UserError, one_line, printable
from vpeft.files import read_json, read_text

#: Names of the two folders, in small letters.
IMAGES = ("images", "image", "imgs", "img", "jpegimages", "photos")
MAPS = (
    "masks",
    "mask",
    "label_maps",
    "labels",
    "annotations",
    "segmentationclass",
    "gt",
    "segmentation",
    "maps",
    "labelmaps",
)
#: What a map's name may have behind its image's.
ENDINGS = ("", "_mask", "-mask", "_label", "_labels", "_seg", "_gt", "_map")
NAMES = ("classes.txt", "labels.txt", "classes.json", "labels.json")
#: Of pixels that no class is asked for.
IGNORED = 255
_MAP_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")


def is_maps(root: Path) -> bool:
    """Whether a folder has one of images and one of label maps (here, or in folders of parts)."""
    return bool(_pairs(root))


def map_folders(root: Path) -> OwnData:
    """Read images and label maps of the same names; ``classes.txt`` (a name a line) or ``classes.json`` names classes.

    Maps hold the class of each pixel, one byte, 255 where none is asked for.

    Raises:
        UserError: An image has no map or a map no image, a map is of another size or holds a value beyond the classes.
    """
    samples = [sample for part, images, maps in _pairs(root) for sample in _samples(part, images, maps, root)]
    if not samples:
        raise UserError(f"{printable(root)}: the folder of images is empty.")
    names = _class_names(root)
    with ThreadPoolExecutor() as threads:
        values = list(threads.map(lambda s: _values(s.label_map, len(names) if names else None), samples))
    highest = max((value for one in values for value in one), default=0)
    if names is None and not highest:
        raise UserError(
            f"{printable(root)}: the label maps hold no value between 0 and {IGNORED}, which means `no class`: write "
            "each "
            "pixel's class as 0, 1, 2, ... (of masks of 0 and 255, 255 as 1)."
        )
    classes = need_classes(names or [str(value) for value in range(highest + 1)], printable(root))
    notes = () if names else (f"no classes.txt names the classes: they are called 0 to {highest}",)
    samples = [OwnSample(s.path, one, s.part, s.label_map) for s, one in zip(samples, values, strict=True)]
    return OwnData("images and label maps", "segmentation", root, classes, tuple(samples), notes=notes)


def _pairs(root: Path) -> list[tuple[str | None, Path, Path]]:
    found = []
    tops = {f.name.lower(): f for f in folder_entries(root, root)[0]}
    images, maps = _two(tops)
    if images is not None:
        inside = {f.name.lower(): f for f in folder_entries(images, root)[0]}
        parts = {PARTS[name]: folder for name, folder in inside.items() if name in PARTS}
        found = [(part, folder, maps / folder.name) for part, folder in parts.items()] or [(None, images, maps)]
    for name, folder in tops.items():
        if name in PARTS:
            images, maps = _two({f.name.lower(): f for f in folder_entries(folder, root)[0]})
            found += [(PARTS[name], images, maps)] if images is not None else []
    found = [pair for pair in found if pair[2].is_dir() and any(_is_map(file) for file in files_below(pair[2], root))]
    parts = [part for part, *_ in found]
    if any(parts) and TRAIN not in parts:
        raise UserError(
            f"{printable(root)} has the parts {some(parts)} and no {TRAIN}: there is nothing to learn from."
        )
    return found


def _two(folders: dict[str, Path]) -> tuple[Path | None, Path | None]:
    images, maps = (next((folders[name] for name in names if name in folders), None) for names in (IMAGES, MAPS))
    return (images, maps) if images is not None and maps is not None else (None, None)


def _is_map(file: Path) -> bool:
    return file.suffix.lower() in _MAP_SUFFIXES


def _samples(part: str | None, images: Path, maps: Path, root: Path) -> list[OwnSample]:
    known = {}
    for file in filter(_is_map, files_below(maps, root)):
        known[str(file.relative_to(maps).with_suffix(""))] = file
    samples, without, taken = [], [], set()
    for image in filter(is_image, files_below(images, root)):
        stem = str(image.relative_to(images).with_suffix(""))
        name = next((f"{stem}{ending}" for ending in ENDINGS if f"{stem}{ending}" in known), None)
        if name is None:
            without.append(image)
            continue
        if name in taken:
            raise UserError(
                f"{printable(image)}: two images have the map {printable(known[name])}: give each its own name."
            )
        taken.add(name)
        samples.append(OwnSample(image, part=part, label_map=known[name]))
    lost = [file for name, file in known.items() if name not in taken]
    if without or lost:
        what = f"{len(without)} images have no label map, first {printable(without[0])}" if without else ""
        what = what or f"{len(lost)} label maps have no image, first {printable(lost[0])}"
        raise UserError(f"{what}: an image and its map have the same name, but for the ending.")
    return samples


def _class_names(root: Path) -> list[str] | None:
    file = next((root / name for name in NAMES if (root / name).is_file()), None)
    if file is None:
        return None
    if file.suffix == ".txt":
        return [line.strip() for line in read_text(file, "names of classes").splitlines() if line.strip()]
    stated = read_json(file, "names of classes", broken="mend it")
    if isinstance(stated, dict) and isinstance(stated.get("classes"), (list, dict)):
        stated = stated["classes"]
    if isinstance(stated, dict):
        try:
            stated = {int(key): value for key, value in stated.items()}
            stated = [stated[i] for i in range(len(stated))]
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{printable(file)}: classes are numbered 0, 1, 2, ... without a gap ({json.dumps(str(error))})."
            ) from error
    if not isinstance(stated, list) or not all(isinstance(name, str) for name in stated):
        raise UserError(f"{printable(file)} names no classes: write a list of names, or an object of names by number.")
    return stated


def _values(file: Path, classes: int | None) -> tuple[int, ...]:
    """The classes that a map shows."""
    from vpeft.core.datasets.load.label_map import count_classes, map_header

    map_header(str(file))
    try:
        with Image.open(file) as opened:
            label_map = np.asarray(opened)
    except Exception as error:  # PIL's decoders raise whatever a broken file makes them stumble over
        raise UserError(
            f"label map {printable(file)} is truncated or cannot be read ({one_line(error, 120)})."
        ) from error
    counts = count_classes(label_map, classes or IGNORED, {IGNORED}, False, printable(file))
    return tuple(np.flatnonzero(counts).tolist())


def sizes_differ(sample: OwnSample, size: Sequence[int]) -> str | None:
    """What is wrong where an image, turned as EXIF says, and its map are of other sizes; None where nothing is."""
    from vpeft.core.datasets.load.label_map import map_header

    height, width = map_header(str(sample.label_map))
    if (width, height) == tuple(size):
        return None
    return f"label map {printable(sample.label_map)} has {width} x {height} pixels, its image {size[0]} x {size[1]}"
