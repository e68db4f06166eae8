"""Squares cut from one photograph, the regions of the splits kept apart.

A photograph is divided into a grid of regions with a strip between them that belongs to none. Every region belongs to
one split, and a square lies inside its region: squares of two splits never touch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

#: Pixels of a patch's side.
PATCH = 98
#: Pixels between two regions.
GAP = 8
#: A region's side at the least: room to move a patch.
REGION = 110
#: Of ten regions so many belong to each split; what is left over is the test's.
REGION_SHARES = {"tune": 5, "val": 2, "test": 3}


class Region(NamedTuple):
    """A rectangle of a photograph; ``field`` says in which of 3 x 3 equal parts of the grid it lies, row by row."""

    y: int
    x: int
    height: int
    width: int
    field: int


class Square(NamedTuple):
    """A square of a photograph: its name, the upper left corner and the side in pixels."""

    picture: str
    y: int
    x: int
    side: int


def region_grid(shape: Sequence[int], least: int = REGION) -> list[Region]:
    """As many regions of at least ``least`` pixels as there is room for, row by row, ``GAP`` pixels apart."""
    spans = []
    for length in shape[:2]:
        count = max(1, (length + GAP) // (least + GAP))
        side = (length - (count - 1) * GAP) // count
        spans.append([(index * (side + GAP), side, 3 * index // count) for index in range(count)])
    rows, columns = spans
    return [Region(y, x, high, wide, 3 * down + along) for y, high, down in rows for x, wide, along in columns]


def shared_out(order: np.ndarray, shares: Mapping[str, int], split: str) -> np.ndarray:
    """The part of ``order`` that a split gets: so many of ten, one at the least, and the last one all that is left."""
    first = 0
    for name, share in shares.items():
        last = len(order) if name == [*shares][-1] else first + max(1, len(order) * share // 10)
        if name == split:
            return order[first:last]
        first = last
    raise AssertionError(split)


def regions_of_split(regions: Sequence[Region], split: str, salt: int) -> list[Region]:
    """Those that belong to ``tune``, ``val`` or ``test``, drawn by ``salt``."""
    order = np.random.default_rng([len(regions), salt]).permutation(len(regions))
    return [regions[i] for i in shared_out(order, REGION_SHARES, split)]


def random_square(picture: str, regions: Sequence[Region], side: int, rng: np.random.Generator) -> Square:
    """A square of ``side`` pixels inside a random one of the regions."""
    region = regions[rng.integers(len(regions))]
    y = region.y + int(rng.integers(region.height - side + 1))
    return Square(picture, y, region.x + int(rng.integers(region.width - side + 1)), side)


class Cutter:
    """Draws squares from the regions of one split, none of them twice.

    Args:
        split: ``tune | val | test``.
        rng: What draws.
    """

    def __init__(self, split: str, rng: np.random.Generator) -> None:
        self.split, self.rng = split, rng
        self._taken: set[Square] = set()

    def square(self, picture: str, regions: Sequence[Region], salt: int, side: int = PATCH) -> Square:
        """A new square inside a random one of the split's regions."""
        mine = regions_of_split(regions, self.split, salt)
        while (square := random_square(picture, mine, side, self.rng)) in self._taken:
            pass
        self._taken.add(square)
        return square
