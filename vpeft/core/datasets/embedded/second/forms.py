"""Forms on the fine grid, photographs in two colours, squares from regions: what the second version draws with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vpeft.core.datasets.embedded.pictures import SIZE, balanced, photograph, region_name
from vpeft.core.datasets.embedded.shapes import SHAPES
from vpeft.core.datasets.embedded.sprites import FINE, GRID, colour, finish, seen_from, way
from vpeft.core.datasets.regions import random_square, region_grid, regions_of_split

#: Half the width of a stroke, in units of a form's radius.
STROKE = 0.27
#: What the shared rule of regions calls the splits.
SPLIT_USES = {"train800": "tune", "val200": "val", "test": "test"}
#: Two colours of a photograph differ by so much, summed over the channels.
APART = 200

DrawOne = Callable[[int, np.random.Generator], np.ndarray]


def form_mask(kind: str, y: int, x: int, radius: int, angle: int) -> np.ndarray:
    """Pixels of a form (:data:`~vpeft.core.datasets.embedded.shapes.SHAPES`) around (y, x), bool on the fine grid.

    Args:
        kind: Its name.
        y: Row of its middle.
        x: Column of its middle.
        radius: In fine pixels.
        angle: By how many degrees it is turned.
    """
    u, v = seen_from(y, x, angle)
    return SHAPES[kind](u / radius, v / radius, STROKE) <= 0


def coverage(mask: np.ndarray) -> np.ndarray:
    """How many of the ``FINE^2`` fine pixels of each pixel a mask covers, ``(SIZE, SIZE, 1)``."""
    return mask.reshape(SIZE, FINE, SIZE, FINE).sum((1, 3))[..., None]


def blended(inside: np.ndarray, outside: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One picture where a form is, the other around it; uint8 ``(SIZE, SIZE, 3)``."""
    part = coverage(mask)
    return ((inside.astype(np.int64) * part + outside.astype(np.int64) * (FINE**2 - part)) // FINE**2).astype(np.uint8)


def drawn_images(draw: DrawOne, size: int, classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(size, SIZE, SIZE, 3)`` of what ``draw(label, rng)`` puts on the fine grid, and their labels."""
    labels = balanced(size, classes, rng)
    return np.stack([finish(draw(int(label), rng)) for label in labels]), labels


def anywhere(radius: int, rng: np.random.Generator) -> tuple[int, int]:
    """A place at which a form of that radius is whole."""
    y, x = rng.integers(radius, GRID - radius + 1, size=2)
    return int(y), int(x)


def moved(place: tuple[int, int], by: int, angle: int) -> tuple[int, int]:
    """The place (y, x) so many fine pixels away, in a direction in degrees: 0 is right, 90 is down."""
    down, right = way(by, angle)
    return place[0] + down, place[1] + right


def square_of(
    picture: str, grey: bool, least: int, side: int, split: str, salt: int, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """A random square of a photograph inside a random region of the split, turned by a random quarter; the region.

    Args:
        picture: The photograph.
        grey: Whether its colours are left out.
        least: Pixels of a region's side, at the least.
        side: Of the square.
        split: ``train800 | val200 | test``.
        salt: Which division into splits.
        rng: What draws.
    """
    pixels = photograph(picture, grey)
    mine = regions_of_split(region_grid(pixels.shape, least), SPLIT_USES[split], salt)
    region = mine[rng.integers(len(mine))]
    square = random_square(picture, [region], side, rng)
    found = pixels[square.y : square.y + side, square.x : square.x + side]
    return np.rot90(found, rng.integers(4)), region_name(picture, (region.y, region.x))


def two_toned(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A grey picture from one random colour to another: neither brightness nor colour nor which is dark is left."""
    dark = colour(rng)
    bright = colour(rng, dark)
    values = np.sort(grey.ravel())
    low, high = (int(values[len(values) * part // 100]) for part in (2, 98))
    part = np.clip((grey.astype(np.int64) - low) * 256 // max(high - low, 24), 0, 256)[..., None]
    return (dark + (bright - dark) * part // 256).astype(np.uint8)


def one_of(values: Sequence[str], rng: np.random.Generator) -> str:
    """One of several names."""
    return values[int(rng.integers(len(values)))]
