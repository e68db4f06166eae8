"""Embedded tasks from real pictures: scikit-learn's digits and the photographs in scikit-image's package.

The photographs are read from the installed package, never fetched. Splits are cut by region: a photograph is divided
into cells, every cell belongs to one split, and a patch lies inside its cell.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from vpeft.core.datasets.regions import shared_out
from vpeft.errors import UserError

SIZE = 32
PHOTOS = ("astronaut", "camera", "chelsea", "clock_motion", "coffee", "coins", "moon", "motorcycle_left")
TEXTURES = ("brick", "grass", "gravel")
#: Of ten cells so many belong to each split.
SHARES = {"train800": 5, "val200": 1, "test": 4}
#: Which cut of the tissue into cells: the first under which every class is found in every split.
TISSUE_CUT = 1

#: Images, labels, and of patches the name of the region that each is from.
Split = tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, list[str]]
#: The upper left corner of a cell.
Cell = tuple[int, int]


def carried(package: str, distribution: str, file: str) -> Path:
    """A file that an installed package carries; the package is not imported, which would take longer than reading it.

    Raises:
        UserError: The installed package does not carry it.
        ModuleNotFoundError: There is no such package.
    """
    if (spec := importlib.util.find_spec(package)) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise UserError(f"{path} does not exist: install {distribution} as requirements/constraints.txt pins it.")
    return path


@functools.lru_cache(maxsize=16)
def photograph(name: str, grey: bool) -> np.ndarray:
    """One of scikit-image's photographs: uint8 ``(H, W)`` where ``grey``, else ``(H, W, 3)``.

    Args:
        name: Of the file, which is a PNG unless the name has another ending.
        grey: Whether its colours are left out.

    Raises:
        UserError: The installed scikit-image does not carry it.
    """
    with Image.open(carried("skimage", "scikit-image", "data/" + photograph_file(name))) as image:
        pixels = np.asarray(image.convert("RGB"))
    # Integer arithmetic, so that every machine has the same picture.
    return (pixels.astype(np.int32) @ np.array([77, 150, 29]) >> 8).astype(np.uint8) if grey else pixels


def photograph_file(name: str) -> str:
    """Name of a photograph's file in scikit-image's folder ``data``."""
    return name if "." in name else f"{name}.png"


def picture_cells(shape: tuple[int, ...], side: int, split: str, salt: int) -> list[tuple[int, int]]:
    """Corners of the cells of ``side`` pixels that belong to ``split``."""
    corners = [(y, x) for y in range(0, shape[0] - side + 1, side) for x in range(0, shape[1] - side + 1, side)]
    order = np.random.default_rng([side, salt]).permutation(len(corners))
    return [corners[i] for i in shared_out(order, SHARES, split)]


def patch(
    picture: np.ndarray, side: int, wide: int, split: str, salt: int, rng: np.random.Generator
) -> tuple[np.ndarray, Cell]:
    """A random square of ``wide`` pixels inside a random cell of the split, turned by a random quarter; the cell."""
    corners = picture_cells(picture.shape, side, split, salt)
    y, x = corners[rng.integers(len(corners))]
    dy, dx = rng.integers(side - wide + 1, size=2)
    square = picture[y + dy : y + dy + wide, x + dx : x + dx + wide]
    return np.rot90(square, rng.integers(4)), (y, x)


def region_name(picture: str, corner: Cell) -> str:
    """What a region is called in results, such as ``brick 128 0``: the photograph, and its upper left corner."""
    return f"{picture} {corner[0]} {corner[1]}"


def shrink(picture: np.ndarray, factor: int) -> np.ndarray:
    """Mean over blocks of ``factor`` by ``factor`` pixels, in integers."""
    h, w = picture.shape[0] // factor, picture.shape[1] // factor
    blocks = picture[: h * factor, : w * factor].astype(np.int32).reshape(h, factor, w, factor, *picture.shape[2:])
    return blocks.sum((1, 3)) // factor**2


def relight(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random contrast and brightness, and three equal channels."""
    gain, mean = rng.integers(128, 320), rng.integers(90, 166)
    values = (grey.astype(np.int32) - int(grey.mean())) * gain // 256 + mean
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def balanced(size: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Labels in random order, as many of each class as possible."""
    return rng.permutation(np.arange(size) % classes)


def digits(split: str, size: int, rng: np.random.Generator) -> Split:
    """Which digit? scikit-learn's 1797 scanned digits of 8 x 8 pixels, enlarged, bright ink on dark paper."""
    scans, labels = scans_of(split, size)
    images = np.empty((size, SIZE, SIZE, 3), dtype=np.uint8)
    for image, scan in zip(images, scans, strict=True):
        paper, ink = rng.integers(0, 100, size=3), rng.integers(156, 256, size=3)
        large = np.kron(scan, np.ones((4, 4), dtype=np.int64))[..., None]
        image[:] = paper + (ink - paper) * large // 16
    return images, labels


def scans_of(split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The scans of a split, ``(size, 8, 8)`` from 0 to 16, and their digits; no scan is in two splits."""
    table = np.loadtxt(carried("sklearn", "scikit-learn", "datasets/data/digits.csv.gz"), delimiter=",")
    scans, labels = table[:, :-1], table[:, -1].astype(int)
    order = np.random.default_rng(1797).permutation(len(labels))
    first = {"train800": 0, "val200": 800, "test": 1000}[split]
    chosen = order[first : first + size]
    return scans[chosen].astype(np.int64).reshape(-1, 8, 8), labels[chosen]


def photos(split: str, size: int, rng: np.random.Generator) -> Split:
    """Which of eight photographs is the patch from?"""
    labels = balanced(size, len(PHOTOS), rng)
    images, regions = [], []
    for k in labels:
        square, cell = patch(photograph(PHOTOS[k], True), 64, SIZE, split, k, rng)
        images.append(relight(square, rng))
        regions.append(region_name(PHOTOS[k], cell))
    return np.stack(images), labels, regions


def textures(split: str, size: int, rng: np.random.Generator) -> Split:
    """Brick, grass or gravel, seen from near or from far: six classes."""
    labels = balanced(size, 6, rng)
    images, regions = [], []
    for label in labels:
        kind, far = divmod(int(label), 2)
        square, cell = patch(photograph(TEXTURES[kind], True), 128, SIZE * (1 + far), split, kind, rng)
        images.append(relight(shrink(square, 1 + far), rng))
        regions.append(region_name(TEXTURES[kind], cell))
    return np.stack(images), labels, regions


def tissue(split: str, size: int, rng: np.random.Generator) -> Split:
    """How much of the patch is stained brown? Four classes by quartile, from a section stained for a protein."""
    picture = photograph("ihc", False)
    pool = [patch(picture, 64, SIZE, split, TISSUE_CUT, rng) for _ in range(size * 8)]
    stain = np.array([brown(square) for square, _ in pool])
    bounds = _tissue_bounds()
    classes = np.searchsorted(bounds, stain)
    taken: list[int] = []
    for label in range(4):
        taken += list(np.flatnonzero(classes == label)[: size // 4])
    rest = sorted(set(range(len(pool))) - set(taken))
    chosen = rng.permutation(np.array(taken + rest[: size - len(taken)]))
    return np.stack([pool[i][0] for i in chosen]), classes[chosen], [region_name("ihc", pool[i][1]) for i in chosen]


def brown(square: np.ndarray) -> int:
    """Sum of red minus blue over a patch: the brown stain is red, the blue counterstain is not."""
    channels = square.astype(np.int64)
    return int((channels[..., 0] - channels[..., 2]).sum())


@functools.lru_cache(maxsize=1)
def _tissue_bounds() -> np.ndarray:
    rng = np.random.default_rng(512)
    picture = photograph("ihc", False)
    stain = sorted(brown(patch(picture, 64, SIZE, "train800", TISSUE_CUT, rng)[0]) for _ in range(2000))
    return np.array([stain[500], stain[1000], stain[1500]])
