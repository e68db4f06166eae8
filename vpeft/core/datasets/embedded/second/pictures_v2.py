"""Tasks from real pictures, second version: digits at any place, and figures in front of grounds.

Patches of two splits never touch (:mod:`vpeft.core.datasets.regions`): regions are small, so that there are many.
"""

from __future__ import annotations

import functools

import numpy as np

from vpeft.core.datasets.embedded.pictures import (
    PHOTOS,
    SIZE,
    TEXTURES,
    balanced,
    brown,
    photograph,
    scans_of,
    shrink,
)
from vpeft.core.datasets.embedded.second.forms import (
    anywhere,
    blended,
    form_mask,
    one_of,
    square_of,
    two_toned,
)
from vpeft.core.datasets.embedded.sprites import GRID, background, colour, finish, seen_from
from vpeft.core.datasets.regions import random_square, region_grid

#: Pixels of a region's side, at the least: of a patch as it was taken, and of one of twice the side.
NEAR_REGION, FAR_REGION = 40, 66
#: Figures of which the material is asked for, and forms of a stain that is asked for.
FIGURES, STAINS = ("disc", "square", "triangle", "star"), ("disc", "ring", "crescent", "bar")
#: Which division of the section into splits.
SECTION_CUT = 1

Patches = tuple[np.ndarray, np.ndarray, list[str]]


def digits_v2(split: str, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which digit? Of any size, at any place, up to 60 degrees aslant, in any two colours, with one to three discs,
    squares or bars behind it.
    """
    scans, labels = scans_of(split, size)
    images = []
    for scan in scans:
        canvas, base = background(rng)
        for _ in range(rng.integers(1, 4)):
            y, x = (int(c) for c in rng.integers(GRID, size=2))
            kind, radius = one_of(("disc", "square", "bar"), rng), int(rng.integers(6, 13))
            canvas[form_mask(kind, y, x, radius, int(rng.integers(360)))] = colour(rng, base)
        fold = int(rng.integers(7, 11))
        ink = _written(scan, fold, anywhere(4 * fold, rng), int(rng.integers(-60, 61)) % 360)
        images.append(finish(canvas + (colour(rng, base) - canvas) * ink // 16))
    return np.stack(images), labels


def _written(scan: np.ndarray, fold: int, place: tuple[int, int], angle: int) -> np.ndarray:
    """A scan on the fine grid, each of its pixels ``fold`` wide: ink from 0 to 16, ``(GRID, GRID, 1)``."""
    along, down = (places // fold + 4 for places in seen_from(*place, angle))
    inside = (along >= 0) & (along < 8) & (down >= 0) & (down < 8)
    return np.where(inside, scan[down.clip(0, 7), along.clip(0, 7)], 0)[..., None]


def photos_v2(split: str, size: int, rng: np.random.Generator) -> Patches:
    """Which of eight photographs is the patch from? In any two colours, dark and bright exchanged or not."""
    labels = balanced(size, len(PHOTOS), rng)
    drawn = [square_of(PHOTOS[k], True, NEAR_REGION, SIZE, split, int(k), rng) for k in labels]
    return np.stack([two_toned(square, rng) for square, _ in drawn]), labels, [region for _, region in drawn]


def textures_v2(split: str, size: int, rng: np.random.Generator) -> Patches:
    """Of what is the figure, brick, grass or gravel, near or far? The ground is of another of the three."""
    labels, images, regions = balanced(size, 6, rng), [], []
    for label in labels:
        kind, far = divmod(int(label), 2)
        figure, region = _surface(kind, far, split, rng)
        ground, _ = _surface((kind + int(rng.integers(1, 3))) % 3, int(rng.integers(2)), split, rng)
        radius = int(rng.integers(30, 44))
        y, x = (int(c) for c in rng.integers(radius * 2 // 3, GRID - radius * 2 // 3, size=2))
        mask = form_mask(one_of(FIGURES, rng), y, x, radius, int(rng.integers(360)))
        images.append(blended(two_toned(figure, rng), two_toned(ground, rng), mask))
        regions.append(region)
    return np.stack(images), labels, regions


def _surface(kind: int, far: int, split: str, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    square, region = square_of(TEXTURES[kind], True, FAR_REGION, SIZE * (1 + far), split, kind, rng)
    return shrink(square, 1 + far), region


def tissue_v2(split: str, size: int, rng: np.random.Generator) -> Patches:
    """Which form has the stain? Tissue that is much stained in front of tissue that is little, or the reverse."""
    labels, images, regions = balanced(size, len(STAINS), rng), [], []
    for label in labels:
        both = [_stained(much, split, rng) for much in (True, False)]
        (figure, region), (ground, _) = both if rng.integers(2) else both[::-1]
        radius = int(rng.integers(24, 40))
        mask = form_mask(STAINS[label], *anywhere(radius * 3 // 4, rng), radius, int(rng.integers(360)))
        images.append(blended(figure, ground, mask))
        regions.append(region)
    return np.stack(images), labels, regions


def _stained(much: bool, split: str, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A patch among the third of all patches that is stained most, or least; its region."""
    low, high = _stain_bounds()
    while True:
        square, region = square_of("ihc", False, NEAR_REGION, SIZE, split, SECTION_CUT, rng)
        stain = brown(square)
        if stain > high if much else stain < low:
            return square, region


@functools.lru_cache(maxsize=1)
def _stain_bounds() -> tuple[int, int]:
    picture, rng = photograph("ihc", False), np.random.default_rng(512)
    regions = region_grid(picture.shape, NEAR_REGION)
    squares = [random_square("ihc", regions, SIZE, rng) for _ in range(1500)]
    stain = sorted(brown(picture[s.y : s.y + SIZE, s.x : s.x + SIZE]) for s in squares)
    return stain[500], stain[1000]
