"""Moving shapes, second version: which of three shapes moves, and how, where every motion is equally fast.

In the first version frames differ by more or by less from class to class, so that how much they differ tells most of
it. Here a shape goes as far from one frame to the next whatever the class: straight on, to and fro, or in a circle; a
place of the image changes as much and as often in every class. The class is the kind of the shape together with the
motion. One frame tells the kind at most, and the motion needs the order of places over several.

No class is another one run backwards, as in the first version.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vpeft.core.datasets.embedded.moving_shapes import FRAMES, Path3, draw_clips, filmed, write_clips
from vpeft.core.datasets.embedded.scenes import ensure

KINDS_V2 = ("star", "tee", "cup")
MOTIONS_V2 = ("straight", "to and fro", "circle")
#: Names of the classes, the label is the index here.
CLASSES_V2 = tuple(f"{kind}, {motion}" for kind in KINDS_V2 for motion in MOTIONS_V2)
#: Pixels from a frame to the next, of every motion: at least and at most.
STEP = (2.0, 2.6)
#: Frames from one turn to the next, to and fro; pixels of the circle's radius.
STRETCH, RADIUS = 3, 3.6
VERSION_V2 = 1


def clip_v2(rng: np.random.Generator, label: int) -> np.ndarray:
    """Draw one clip, RGB uint8 ``(FRAMES, SIZE, SIZE, 3)``."""
    kind, motion = divmod(label, len(MOTIONS_V2))
    return filmed(rng, lambda *start: even_motion(MOTIONS_V2[motion], *start), KINDS_V2[kind])


def even_motion(name: str, rng: np.random.Generator, start: np.ndarray, angle: np.ndarray) -> Path3:
    """Places ``(x, y)`` and angles in every frame, each ``(FRAMES, shapes)``; all steps of a clip are as long.

    Args:
        name: Of :data:`MOTIONS_V2`.
        rng: What draws.
        start: Places in the first frame, ``(2, shapes)``.
        angle: Angles in the first frame, which stay.
    """
    time = np.arange(FRAMES)
    step, direction = rng.uniform(*STEP), rng.uniform(0, 2 * np.pi)
    first, side = rng.uniform(0, 2 * STRETCH), rng.choice([-1, 1])  # drawn for all, so that classes are alike else
    if name == "circle":
        turn = 2 * np.arcsin(step / 2 / RADIUS)
        way = RADIUS * (np.exp(1j * side * turn * time) - 1) * -1j * side
    else:
        moved = time if name == "straight" else _to_and_fro(time + int(first))
        way = step * (moved - moved[0]).astype(complex)
    way = (way * np.exp(1j * direction))[:, None] + np.zeros(len(angle))
    return (start[0] + way.real, start[1] + way.imag), angle + np.zeros((FRAMES, 1))


def _to_and_fro(time: np.ndarray) -> np.ndarray:
    return np.abs(time % (2 * STRETCH) - STRETCH)


def draw_clips_v2(split: str, seed: int = 0) -> tuple[list[np.ndarray], list[int]]:
    """The clips of one split and their labels, as :func:`~vpeft.core.datasets.embedded.moving_shapes.draw_clips`."""
    return draw_clips(split, seed, clip_v2, len(CLASSES_V2))


def ensure_moving_v2(root: str | os.PathLike[str]) -> Path:
    """The clips as MP4 files with the lists ``train.csv``, ``val.csv``, ``test.csv``; drawn on first use.

    Args:
        root: The folder.

    Returns:
        ``root``.

    Raises:
        UserError: Something else is there, or it cannot be written.
    """
    return ensure(root, lambda folder: write_clips(folder, draw_clips_v2), VERSION_V2)
