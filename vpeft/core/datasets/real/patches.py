"""Tasks on patches of scikit-image's photographs, 98 x 98 pixels as they were taken.

A task says which squares it draws and what their labels are (:data:`PATCH_TASKS`); pixels are read from the installed
package, never fetched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpeft.core.datasets.embedded.pictures import balanced, brown, carried, photograph, photograph_file, shrink
from vpeft.core.datasets.regions import (
    PATCH,
    REGION,
    REGION_SHARES,
    Cutter,
    Region,
    Square,
    random_square,
    region_grid,
)
from vpeft.errors import UserError

PLACES = ("astronaut", "camera", "chelsea", "clock_motion", "coffee", "coins", "hubble_deep_field.jpg", "moon")
PLACES += ("motorcycle_left", "rocket.jpg")
#: Photographs in which one sees what is up.
UPRIGHT = ("astronaut", "camera", "chelsea", "clock_motion", "coffee", "motorcycle_left", "rocket.jpg")
SURFACES = ("brick", "grass", "gravel")
#: A region of the eye that is darker on average lies outside it.
OUTSIDE = 40
#: What is a star or a galaxy: so many connected pixels brighter than so much.
SPOT_PIXELS, SPOT_BRIGHTNESS = 4, 60
#: Random squares of the whole picture whose values say where the quartiles are.
QUARTILE_SAMPLE = 2000

#: Squares with their labels.
Drawn = list[tuple[Square, int]]
#: The value of a square whose quartile is the label; NaN where there is none.
Measure = Callable[[Square], float]


@dataclass(frozen=True)
class PatchTask:
    """A task on patches.

    Attributes:
        draw: ``f(cut, size)`` gives squares and labels.
        seed: Of the drawing.
        classes: Their names, in the order of the labels.
        pictures: Files of scikit-image's that are read.
        grey: Whether colours are left out, so that colour alone does not tell.
        turned: Whether the label says by how many quarters, counterclockwise, the patch is turned.
    """

    draw: Callable[[Cutter, int], Drawn]
    seed: int
    classes: tuple[str, ...]
    pictures: tuple[str, ...]
    grey: bool = False
    turned: bool = False

    def files(self, root: str, split: str) -> list[Path]:
        """What is read, wherever ``root`` is.

        Raises:
            UserError: The installed scikit-image does not carry one of them.
        """
        return [carried("skimage", "scikit-image", f"data/{photograph_file(name)}") for name in self.pictures]

    def squares(self, split: str, size: int) -> Drawn:
        """The squares of ``tune``, ``val`` or ``test``, with their labels."""
        rng = np.random.default_rng([self.seed, list(REGION_SHARES).index(split)])
        return self.draw(Cutter(split, rng), size)

    def read(self, root: str, split: str, sizes: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Images in RGB ``(N, 98, 98, 3)`` and labels ``(N,)`` of a split, as many as ``sizes`` says."""
        drawn = self.squares(split, sizes[split])
        return np.stack([self.pixels(*one) for one in drawn]), np.array([label for _, label in drawn])

    def pixels(self, square: Square, label: int) -> np.ndarray:
        """A square's picture, uint8 ``(98, 98, 3)`` in RGB."""
        found = pixels_of(square, self.grey)
        if square.side > PATCH:
            found = shrink(found, square.side // PATCH).astype(np.uint8)
        if self.grey:
            found = np.repeat(found[..., None], 3, axis=2)
        return np.rot90(found, label) if self.turned else found


def pixels_of(square: Square, grey: bool) -> np.ndarray:
    """What the photograph shows there, uint8 ``(side, side)`` where ``grey``, else ``(side, side, 3)``."""
    picture = photograph(square.picture, grey)
    return picture[square.y : square.y + square.side, square.x : square.x + square.side]


@functools.cache
def grid_of(picture: str, least: int = REGION) -> list[Region]:
    """The regions of a photograph, of at least ``least`` pixels."""
    return region_grid(photograph(picture, False).shape, least)


def draw_places(cut: Cutter, size: int) -> Drawn:
    """Which photograph is the patch from?"""
    labels = balanced(size, len(PLACES), cut.rng)
    return [(cut.square(PLACES[k], grid_of(PLACES[k]), salt=int(k)), int(k)) for k in labels]


def draw_surfaces(cut: Cutter, size: int) -> Drawn:
    """Brick, grass or gravel, from near or from twice as far."""
    found = []
    for label in balanced(size, 2 * len(SURFACES), cut.rng):
        kind, far = divmod(int(label), 2)
        regions = grid_of(SURFACES[kind], 2 * PATCH)
        found.append((cut.square(SURFACES[kind], regions, kind, PATCH * (1 + far)), int(label)))
    return found


def draw_fields(cut: Cutter, size: int) -> Drawn:
    """In which of 3 x 3 fields of the eye's background does the patch lie?"""
    regions = [r for r in grid_of("retina.jpg") if _brightness(r) >= OUTSIDE]
    return [
        (cut.square("retina.jpg", [r for r in regions if r.field == field], salt=int(field)), int(field))
        for field in balanced(size, 9, cut.rng)
    ]


def _brightness(region: Region) -> float:
    grey = photograph("retina.jpg", True)
    return float(grey[region.y : region.y + region.height, region.x : region.x + region.width].mean())


def draw_turns(cut: Cutter, size: int) -> Drawn:
    """By how many quarters is the patch turned?"""
    found = []
    for label in balanced(size, 4, cut.rng):
        k = int(cut.rng.integers(len(UPRIGHT)))
        found.append((cut.square(UPRIGHT[k], grid_of(UPRIGHT[k]), salt=k), int(label)))
    return found


def by_quartile(picture: str, measure: Measure, salt: int) -> Callable[[Cutter, int], Drawn]:
    """A drawing of squares labelled by the quartile of their value in the whole picture, as many of each.

    Args:
        picture: The photograph.
        measure: Gives a square's value.
        salt: Which division into splits: the first under which every quartile has 15 % of the squares of every split.
    """

    def draw(cut: Cutter, size: int) -> Drawn:
        bounds = quartiles(picture, measure)
        wanted, found = np.full(4, size // 4), []
        for _ in range(100 * size):
            square = cut.square(picture, grid_of(picture), salt)
            value = measure(square)
            label = int(np.searchsorted(bounds, value, side="right"))
            if value == value and wanted[label]:
                wanted[label] -= 1
                found.append((square, label))
                if not wanted.any():
                    return [found[i] for i in cut.rng.permutation(size)]
        raise AssertionError(f"{picture}: too few squares of a quartile in {cut.split}")

    return draw


@functools.cache
def quartiles(picture: str, measure: Measure) -> tuple[float, ...]:
    """The three values that divide random squares of a photograph into quarters; a value on one belongs above it."""
    rng = np.random.default_rng(QUARTILE_SAMPLE)
    values = [measure(random_square(picture, grid_of(picture), PATCH, rng)) for _ in range(QUARTILE_SAMPLE)]
    values = sorted(value for value in values if value == value)
    return tuple(values[len(values) * k // 4] for k in (1, 2, 3))


def stain(square: Square) -> float:
    """How much is stained brown."""
    return brown(pixels_of(square, grey=False))


@functools.lru_cache(maxsize=1)
def _disparities() -> np.ndarray:
    path = carried("skimage", "scikit-image", "data/motorcycle_disp.npz")
    try:
        with np.load(path) as file:
            return file["arr_0"]
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise UserError(f"{path} cannot be read ({error}): install scikit-image again.") from error


def nearness(square: Square) -> float:
    """Median disparity in pixels; NaN where less than half of the square has one."""
    found = _disparities()[square.y : square.y + square.side, square.x : square.x + square.side]
    known = found[np.isfinite(found)]
    return float(np.median(known)) if known.size >= found.size / 2 else float("nan")


@functools.lru_cache(maxsize=1)
def _spots() -> np.ndarray:
    """Middles of stars and galaxies as ``(N, 2)``, row and column, rounded down."""
    from scipy import ndimage

    found, count = ndimage.label(photograph("hubble_deep_field.jpg", True) > SPOT_BRIGHTNESS)
    rows, columns = np.nonzero(found)
    numbers = found[rows, columns]
    sizes = np.bincount(numbers, minlength=count + 1)
    middles = [np.bincount(numbers, where, count + 1) // np.maximum(sizes, 1) for where in (rows, columns)]
    return np.stack(middles, axis=1)[sizes >= SPOT_PIXELS].astype(int)


def spots_within(square: Square) -> float:
    """How many stars and galaxies have their middle in the square."""
    place = _spots() - (square.y, square.x)
    return float(((place >= 0) & (place < square.side)).all(axis=1).sum())


PATCH_TASKS = {
    "real_photos": PatchTask(
        draw_places, 1, tuple(name.removesuffix(".jpg").replace("_", " ") for name in PLACES), PLACES, grey=True
    ),
    "real_textures": PatchTask(
        draw_surfaces, 2, tuple(f"{kind}, {far}" for kind in SURFACES for far in ("near", "far")), SURFACES, grey=True
    ),
    "real_tissue": PatchTask(
        by_quartile("ihc", stain, salt=37), 3, ("least brown", "less brown", "more brown", "most brown"), ("ihc",)
    ),
    "real_retina": PatchTask(
        draw_fields,
        4,
        tuple(f"{row} {column}" for row in ("upper", "middle", "lower") for column in ("left", "centre", "right")),
        ("retina.jpg",),
    ),
    "real_depth": PatchTask(
        by_quartile("motorcycle_left", nearness, salt=34),
        5,
        ("farthest", "far", "near", "nearest"),
        ("motorcycle_left", "motorcycle_disp.npz"),
    ),
    "real_turns": PatchTask(
        draw_turns, 6, tuple(f"{90 * k} degrees" for k in range(4)), UPRIGHT, grey=True, turned=True
    ),
    "real_galaxies": PatchTask(
        by_quartile("hubble_deep_field.jpg", spots_within, salt=4),
        7,
        ("0 to 9", "10 or 11", "12 to 14", "15 and more"),
        ("hubble_deep_field.jpg",),
    ),
}
