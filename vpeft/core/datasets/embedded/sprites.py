"""Embedded tasks drawn by rule, after dSprites and CLEVR: location, orientation, count, distance.

Everything is computed in integers on a grid three times as fine as the image, so that every machine draws the same.
Colours, sizes, backgrounds and whatever else the label does not name are random.
"""

from __future__ import annotations

import math

import numpy as np

SIZE = 32
FINE = 3
GRID = SIZE * FINE
ONE = 4096  # cosines in units of 1 / ONE
_COS = np.array([round(math.cos(math.radians(a)) * ONE) for a in range(360)])
_SIN = np.array([round(math.sin(math.radians(a)) * ONE) for a in range(360)])
_Y, _X = np.mgrid[:GRID, :GRID].astype(np.int64)

Split = tuple[np.ndarray, np.ndarray]


def seen_from(y: int, x: int, angle: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the fine grid seen from (y, x), along ``angle`` degrees and across."""
    along = ((_X - x) * _COS[angle] + (_Y - y) * _SIN[angle]) // ONE
    return along, ((_Y - y) * _COS[angle] - (_X - x) * _SIN[angle]) // ONE


def way(by: int, angle: int) -> tuple[int, int]:
    """How far down and right so many fine pixels along ``angle`` degrees lead."""
    return by * int(_SIN[angle]) // ONE, by * int(_COS[angle]) // ONE


def shape_mask(kind: int, y: int, x: int, radius: int, angle: int) -> np.ndarray:
    """Pixels of a disc (0), square (1), triangle (2) or cross (3) around (y, x), on the fine grid."""
    u, v = seen_from(y, x, angle)
    if kind == 0:
        return (_X - x) ** 2 + (_Y - y) ** 2 <= radius**2
    if kind == 1:
        return (abs(u) * 5 <= radius * 4) & (abs(v) * 5 <= radius * 4)
    if kind == 2:
        return (v * 2 <= radius) & (abs(u) * 7 <= (v + radius) * 4)
    return ((abs(u) * 3 <= radius) & (abs(v) <= radius)) | ((abs(v) * 3 <= radius) & (abs(u) <= radius))


def pointer_mask(y: int, x: int, radius: int, angle: int) -> np.ndarray:
    """Pixels of an arrow from tail to tip along ``angle`` degrees, on the fine grid."""
    u, v = seen_from(y, x, angle)
    shaft = (u >= -radius) & (u <= radius // 5) & (abs(v) * 5 <= radius)
    tip = (u >= radius // 5) & (abs(v) * 4 <= (radius - u) * 3)
    return shaft | tip


def colour(rng: np.random.Generator, against: np.ndarray | None = None) -> np.ndarray:
    """A random colour, clearly different from ``against``."""
    while True:
        value = rng.integers(256, size=3)
        if against is None or abs(value - against).sum() >= 200:
            return value


def background(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A canvas ``(GRID, GRID, 3)`` with a soft gradient and noise, and its mean colour."""
    base = colour(rng)
    slope = rng.integers(-40, 41, size=(2, 1, 1, 3))
    canvas = base + (slope[0] * (_Y[..., None] - GRID // 2) + slope[1] * (_X[..., None] - GRID // 2)) // GRID
    noise = rng.integers(-12, 13, size=(SIZE, SIZE, 3))
    return canvas + np.repeat(np.repeat(noise, FINE, axis=0), FINE, axis=1), base


def finish(canvas: np.ndarray) -> np.ndarray:
    """The image: blocks of the fine grid averaged."""
    blocks = np.clip(canvas, 0, 255).reshape(SIZE, FINE, SIZE, FINE, 3)
    return (blocks.sum((1, 3)) // FINE**2).astype(np.uint8)


def _draw(draw_one, size: int, classes: int, rng: np.random.Generator) -> Split:  # noqa: ANN001
    labels = rng.permutation(np.arange(size) % classes)
    return np.stack([finish(draw_one(int(label), rng)) for label in labels]), labels


def location(split: str, size: int, rng: np.random.Generator) -> Split:
    """In which of 4 x 4 fields is the shape? Small dots lie about as distractors."""

    def one(label: int, rng: np.random.Generator) -> np.ndarray:
        canvas, base = background(rng)
        for _ in range(rng.integers(4)):
            y, x = rng.integers(GRID, size=2)
            canvas[shape_mask(0, y, x, 4, 0)] = colour(rng, base)
        row, column = divmod(label, 4)
        y, x = rng.integers(4, GRID // 4 - 4, size=2) + np.array([row, column]) * (GRID // 4)
        mask = shape_mask(rng.integers(4), y, x, rng.integers(9, 17), rng.integers(360))
        canvas[mask] = colour(rng, base)
        return canvas

    return _draw(one, size, 16, rng)


def orientation(split: str, size: int, rng: np.random.Generator) -> Split:
    """Which of eight directions does the arrow point in? Up to 9 degrees off."""

    def one(label: int, rng: np.random.Generator) -> np.ndarray:
        canvas, base = background(rng)
        radius = int(rng.integers(26, 40))
        y, x = rng.integers(radius, GRID - radius, size=2)
        canvas[pointer_mask(y, x, radius, int(label * 45 + rng.integers(-9, 10)) % 360)] = colour(rng, base)
        return canvas

    return _draw(one, size, 8, rng)


def count(split: str, size: int, rng: np.random.Generator) -> Split:
    """How many shapes, one to six? None covers another's centre."""

    def one(label: int, rng: np.random.Generator) -> np.ndarray:
        canvas, base = background(rng)
        placed: list[tuple[int, int]] = []
        while len(placed) <= label:
            y, x = (int(c) for c in rng.integers(9, GRID - 9, size=2))
            if all((y - b) ** 2 + (x - a) ** 2 >= 24**2 for b, a in placed):
                placed.append((y, x))
        for y, x in placed:
            canvas[shape_mask(rng.integers(4), y, x, rng.integers(7, 13), rng.integers(360))] = colour(rng, base)
        return canvas

    return _draw(one, size, 6, rng)


def distance(split: str, size: int, rng: np.random.Generator) -> Split:
    """How far away is the nearest of up to three objects on a plane seen in perspective? Six bins of depth.

    An object of width w at depth d stands ``1 / d`` below the horizon and is ``w / d`` wide; w is random, so that
    the width alone does not tell.
    """

    def one(label: int, rng: np.random.Generator) -> np.ndarray:
        canvas, base = background(rng)
        horizon = int(rng.integers(GRID // 6, GRID // 4))
        ground = colour(rng, base)
        canvas[horizon:] = canvas[horizon:] - base + ground
        depth = 100 + label * 60 + int(rng.integers(5, 56))  # hundredths: 1.05 to 4.56
        far = [int(d) for d in rng.integers(depth + 20, 520, size=rng.integers(3))]
        for d in sorted([depth, *far], reverse=True):
            foot = horizon + (GRID - 8 - horizon) * 100 // d
            radius = int(rng.integers(11, 23)) * 100 // d + 2
            x = int(rng.integers(8, GRID - 8))
            paint = colour(rng, ground)
            canvas[shape_mask(rng.integers(3), foot - radius, x, radius, 0)] = paint
            canvas[shape_mask(1, foot, x, max(radius // 3, 1), 0)] = paint // 2
        return canvas

    return _draw(one, size, 6, rng)
