"""Drawn tasks, second version: each asks which form it is besides where it lies or how it is turned.

Where it lies is asked relative to a disc, which may be anywhere, and what is turned is small and anywhere: the places
at which something is say little, and nothing where it is not known which of two things is the form.
"""

from __future__ import annotations

import numpy as np

from vpeft.core.datasets.embedded.second.forms import anywhere, drawn_images, form_mask, moved
from vpeft.core.datasets.embedded.sprites import GRID, background, colour

#: The forms that are asked for, beside a disc, and turned.
BESIDE_DISC = ("star", "cross", "ring", "triangle", "tee", "crescent", "square", "bar")
TURNED = ("tee", "cup", "triangle", "crescent")

Labelled = tuple[np.ndarray, np.ndarray]


def location_v2(split: str, size: int, rng: np.random.Generator) -> Labelled:
    """Which of eight forms lies beside the disc, and is it right or left of it? Up to 25 degrees higher or lower."""

    def one(label: int, rng: np.random.Generator) -> np.ndarray:
        kind, left = divmod(label, 2)
        canvas, base = background(rng)
        while True:
            radius, other = (int(r) for r in rng.integers(15, 25, size=2))
            place = anywhere(other, rng)
            away = radius + other + int(rng.integers(7))
            y, x = moved(place, away, int(left * 180 + rng.integers(-25, 26)) % 360)
            if radius <= y <= GRID - radius and radius <= x <= GRID - radius:
                break
        canvas[form_mask("disc", *place, other, 0)] = colour(rng, base)
        canvas[form_mask(BESIDE_DISC[kind], y, x, radius, int(rng.integers(360)))] = colour(rng, base)
        return canvas

    return drawn_images(one, size, 16, rng)


def orientation_v2(split: str, size: int, rng: np.random.Generator) -> Labelled:
    """Which of four forms is it, and by how many quarters is it turned? Up to 20 degrees off."""

    def one(label: int, rng: np.random.Generator) -> np.ndarray:
        kind, quarters = divmod(label, 4)
        canvas, base = background(rng)
        radius = int(rng.integers(15, 23))
        angle = int(quarters * 90 + rng.integers(-20, 21)) % 360
        canvas[form_mask(TURNED[kind], *anywhere(radius, rng), radius, angle)] = colour(rng, base)
        return canvas

    return drawn_images(one, size, 16, rng)
