"""Moving shapes: an embedded video task of which a single frame says nothing.

Two or three shapes move alike, and what leaves the image on one side enters it on the other. The class is the kind of
their motion. Kind of shape, size, colours, background, the places and angles at the start and the direction are random
and no part of it: the first frame is drawn before the class is known, and since places and angles at the start are
uniform on a circle, they are in every later frame too. What tells the classes apart is only how frames differ.

No class is another one run backwards, because an image host that is inflated to video treats time forwards and
backwards alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vpeft.core.datasets.embedded.scenes import ensure
from vpeft.core.datasets.embedded.shapes import SHAPES
from vpeft.errors import UserError
from vpeft.registry import nearest

#: Height and width in pixels, frames of a clip, frames a second.
SIZE, FRAMES, RATE = 32, 12, 8
#: Names of the classes, the label is the index here: no motion, a slow and a fast drift, to and fro, turning on the
#: spot, another place in every frame.
CLASSES = ("still", "slow", "fast", "swing", "turn", "jump")
#: Shapes that look different when turned.
KINDS = ("triangle", "star", "cross", "tee", "cup", "zed")
#: Clips of each split; the classes are equally frequent.
SPLITS = {"train": 600, "val": 96, "test": 240}
#: Changes whenever other clips are drawn or written, so that folders made before are not taken for new ones.
VERSION = 1
#: H.264 in RGB, nearly lossless: about 8 kB a clip.
CODEC = {"crf": "12", "preset": "veryfast", "threads": "1"}


#: Places ``(x, y)`` and angles of the shapes in every frame, each ``(FRAMES, shapes)``.
Path3 = tuple[tuple[np.ndarray, np.ndarray], np.ndarray]
#: ``f(rng, start (2, shapes), angle (shapes,))``.
Motion = Callable[[np.random.Generator, np.ndarray, np.ndarray], Path3]


def clip(rng: np.random.Generator, label: int) -> np.ndarray:
    """Draw one clip, RGB uint8 ``(FRAMES, SIZE, SIZE, 3)``; the first frame is the same for every label."""
    return filmed(rng, lambda rng, start, angle: _motion(rng, CLASSES[label], start, angle))


def filmed(rng: np.random.Generator, motion: Motion, kind: str | None = None) -> np.ndarray:
    """Two or three shapes of one kind that move alike, RGB uint8 ``(FRAMES, SIZE, SIZE, 3)``.

    Args:
        rng: What draws.
        motion: Where they are in every frame; it is asked last, so that it changes nothing of the first frame.
        kind: Of the shapes; one of :data:`KINDS` at random unless given.
    """
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    slope = rng.uniform(-0.15, 0.15, (2, 1))
    ground = rng.uniform(0.05, 0.3, 3) + slope[0] * (x[..., None] / SIZE - 0.5) + slope[1] * (y[..., None] / SIZE - 0.5)
    distance, stroke = SHAPES[kind or KINDS[rng.integers(len(KINDS))]], 0.3
    count = int(rng.integers(2, 4))
    start, angle, radius = (
        rng.uniform(0, SIZE, (2, count)),
        rng.uniform(0, 2 * np.pi, count),
        rng.uniform(4, 6.5, count),
    )
    colour = rng.uniform(0.6, 1, (count, 3)) - 0.5 * np.eye(3)[rng.integers(3, size=count)]
    noise = rng.normal(0, rng.uniform(0, 0.02), (FRAMES, SIZE, SIZE, 3))

    places, angles = motion(rng, start, angle)
    image = np.broadcast_to(ground, noise.shape)
    for i in range(count):
        right, down = (_around(axis - place[:, i, None, None]) for axis, place in zip((x, y), places, strict=True))
        cos, sin = (f(angles[:, i, None, None]) / radius[i] for f in (np.cos, np.sin))
        outside = distance(right * cos + down * sin, down * cos - right * sin, stroke) * radius[i]
        image = image + (colour[i] - image) * np.clip(0.5 - outside, 0, 1)[..., None]
    return (np.clip(image + noise, 0, 1) * 255).round().astype(np.uint8)


def _motion(rng: np.random.Generator, name: str, start: np.ndarray, angle: np.ndarray) -> Path3:
    time, none = np.arange(FRAMES)[:, None], np.zeros((FRAMES, len(angle)))
    path, turned = none, none
    if name == "slow":
        path = rng.uniform(1.2, 1.6) * time
    elif name == "fast":
        path = rng.uniform(3.0, 4.0) * time
    elif name == "swing":
        path = rng.uniform(2.0, 2.6) * np.abs((time + rng.uniform(0, 4)) % 4 - 2)
    elif name == "turn":
        turned = rng.choice([-1, 1]) * rng.uniform(0.5, 0.8) * time
    direction = rng.uniform(0, 2 * np.pi)
    path = path - path[:1]
    places = start[0] + path * np.cos(direction) + none, start[1] + path * np.sin(direction) + none
    if name == "jump":
        for place in places:
            place[1:] = rng.uniform(0, SIZE, place[1:].shape)
    return places, angle + turned


def _around(distance: np.ndarray) -> np.ndarray:
    """Distances on a circle as long as the image, from ``-SIZE / 2`` to ``SIZE / 2``."""
    return (distance + SIZE / 2) % SIZE - SIZE / 2


def draw_clips(
    split: str, seed: int = 0, draw: Callable[[np.random.Generator, int], np.ndarray] = clip, classes: int = 6
) -> tuple[list[np.ndarray], list[int]]:
    """The clips of one split and their labels.

    Args:
        split: ``train | val | test``.
        seed: Seed of the drawing; the benchmark's is 0.
        draw: Draws a clip of a label.
        classes: Labels are below this.

    Raises:
        UserError: There is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} of the moving shapes does not exist: {nearest(split, SPLITS)}")
    part = list(SPLITS).index(split)
    labels = [index % classes for index in range(SPLITS[split])]
    return [draw(np.random.default_rng([seed, part, index]), label) for index, label in enumerate(labels)], labels


def write_video(path: str | os.PathLike[str], frames: np.ndarray) -> None:
    """Write an MP4 file.

    Args:
        path: The file.
        frames: RGB uint8 ``(T, H, W, 3)``.
    """
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=RATE, options=CODEC)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def ensure_moving(root: str | os.PathLike[str]) -> Path:
    """The moving shapes as MP4 files with the lists ``train.csv``, ``val.csv``, ``test.csv``; drawn on first use.

    Args:
        root: The folder.

    Returns:
        ``root``.

    Raises:
        UserError: Something else is there, or it cannot be written.
    """
    return ensure(root, lambda folder: write_clips(folder, draw_clips), VERSION)


def write_clips(folder: Path, drawn: Callable[[str], tuple[list[np.ndarray], list[int]]]) -> None:
    """Write the clips of every split, and its list.

    Args:
        folder: Where.
        drawn: Gives a split's clips and labels.
    """
    for split in SPLITS:
        clips, labels = drawn(split)
        (folder / split).mkdir()
        rows = []
        for index, (frames, label) in enumerate(zip(clips, labels, strict=True)):
            write_video(folder / split / f"{index:04d}.mp4", frames)
            rows.append(f"{split}/{index:04d}.mp4,{label}\n")
        (folder / f"{split}.csv").write_text("".join(rows))
