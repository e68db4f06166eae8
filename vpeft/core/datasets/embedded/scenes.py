"""Scenes drawn by rule: several shapes that partly hide one another, for embedded detection and segmentation.

The class of an object is its colour: one of six ranges of hue, at any saturation and brightness, in two tones that make
a texture. Shape, place, size, angle, texture and number are random and no part of it. The nano hosts were pretrained to
tell shapes and textures apart whatever their colour (:mod:`vpeft.core.datasets.embedded.shapes`): what their upper
layers have learnt to leave out is what counts here, as with the ripeness of fruit or the stain of tissue.
"""

from __future__ import annotations

import colorsys
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vpeft.core.datasets.embedded.shapes import SHAPES, TEXTURES, patterns
from vpeft.errors import UserError
from vpeft.registry import nearest

#: Height and width of a scene in pixels.
SIZE = 64
#: Names of the classes; an object's label is the index here.
CLASSES = ("red", "yellow", "green", "cyan", "blue", "magenta")
#: Colours in which the classes are shown, 0..255: those of Okabe and Ito's palette that go by the classes' names.
PALETTE = ((213, 94, 0), (240, 228, 66), (0, 158, 115), (86, 180, 233), (0, 114, 178), (204, 121, 167))
#: Forms of the objects.
FORMS = ("square", "triangle", "star", "cross", "crescent", "cup")
#: Images of each split.
SPLITS = {"train": 800, "val": 100, "test": 200}
#: Changes whenever other scenes are drawn, so that folders drawn before are not taken for new ones.
VERSION = 2
#: Objects stand in a scene.
MOST = 5
#: At least this part of what an object covers in the image is seen.
SEEN = 0.5


#: ``f(rng, x, y)`` gives a background ``(3, H, W)`` in [0, 1].
Ground = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]


class Scene(NamedTuple):
    """One image and what is in it; the objects stand from back to front.

    Attributes:
        image: RGB uint8 ``(H, W, 3)``.
        labels: Indices of :data:`CLASSES`, int64 ``(N,)`` with ``1 <= N <= MOST``.
        masks: Visible pixels of every object, bool ``(N, H, W)``; no pixel belongs to two.
    """

    image: np.ndarray
    labels: np.ndarray
    masks: np.ndarray

    @property
    def boxes(self) -> np.ndarray:
        """Boxes around the visible pixels, int64 ``(N, 4)``: x1, y1, x2, y2, where x2 and y2 are the first outside."""
        found = []
        for mask in self.masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            found.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        return np.array(found, dtype=np.int64)

    @property
    def label_map(self) -> np.ndarray:
        """Uint8 ``(H, W)``: 0 where no object is, else 1 + the label."""
        labels = (self.labels + 1).astype(np.uint8)
        return (self.masks * labels[:, None, None]).max(0)


def drawn_ground(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A background of two near colours, ``(3, H, W)`` in [0, 1]; ``x`` and ``y`` count to :data:`SIZE`."""
    one = rng.uniform(0.1, 0.9, 3)
    two = np.clip(one + rng.uniform(-0.25, 0.25, 3), 0, 1)
    pattern = patterns(rng, rng.integers(len(TEXTURES), size=1), x, y)
    return one[:, None, None] * (1 - pattern) + two[:, None, None] * pattern


def scene(rng: np.random.Generator, size: int = SIZE, ground: Ground = drawn_ground) -> Scene:
    """Draw one scene; a generator in the same state draws the same.

    Args:
        rng: What draws.
        size: Height and width in pixels; the objects grow with it.
        ground: The background.
    """
    y, x = np.mgrid[:size, :size].astype(np.float32) * (SIZE / size)
    image = ground(rng, x, y)
    labels, masks, areas = [], [], []
    wanted = int(rng.integers(1, MOST + 1))
    while len(labels) < wanted:
        label = int(rng.integers(len(CLASSES)))
        cover = _cover(rng, x, y, size / SIZE)
        mask = cover > 0.5
        # In front of the others: none may vanish behind it.
        left = [other & ~mask for other in masks]
        if any(rest.sum() < SEEN * area for rest, area in zip(left, areas, strict=True)):
            continue
        image += (_filling(rng, label, image[:, mask].mean(1), x, y) - image) * cover
        labels.append(label)
        areas.append(mask.sum())
        masks = [*left, mask]
    light = (
        rng.uniform(0.8, 1.2) + rng.uniform(-0.3, 0.3) * (x / SIZE - 0.5) + rng.uniform(-0.3, 0.3) * (y / SIZE - 0.5)
    )
    image = image * light + rng.normal(0, rng.uniform(0.01, 0.04), image.shape)
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return Scene(pixels.transpose(1, 2, 0), np.array(labels, dtype=np.int64), np.stack(masks))


def _filling(rng: np.random.Generator, label: int, behind: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A texture ``(3, H, W)`` of two tones of the class's hue, clearly other than the colour ``behind``."""
    hue = (label + rng.uniform(-0.3, 0.3)) / len(CLASSES) % 1
    for _ in range(50):  # a few hues hardly differ from some grounds
        tone = np.array(colorsys.hsv_to_rgb(hue, *rng.uniform(0.35, 1.0, 2)))
        if np.abs(tone - behind).sum() > 0.4:
            break
    other = np.clip(tone * rng.uniform(0.6, 1.3), 0, 1)
    pattern = patterns(rng, rng.integers(len(TEXTURES), size=1), x, y)
    return tone[:, None, None] * (1 - pattern) + other[:, None, None] * pattern


def _cover(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    """How much of every pixel the object covers, ``(H, W)`` in [0, 1]; ``scale`` is of pixels to a unit of x and y."""
    radius = rng.uniform(6.5, 13.0)
    cx, cy = rng.uniform(0.7 * radius, SIZE - 1 - 0.7 * radius, 2)
    angle, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.18)
    u = ((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) / (radius * stretch)
    v = ((y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)) / (radius / stretch)
    return np.clip(0.5 - SHAPES[FORMS[rng.integers(len(FORMS))]](u, v, rng.uniform(0.24, 0.32)) * radius * scale, 0, 1)


def draw_split(split: str, size: int | None = None, seed: int = 0) -> list[Scene]:
    """The scenes of one split; the first ones are the same whatever the size.

    Args:
        split: ``train | val | test``.
        size: How many, by default as many as :data:`SPLITS` says.
        seed: Seed of the drawing; the benchmark's is 0.

    Raises:
        UserError: There is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} of the scenes does not exist: {nearest(split, SPLITS)}")
    part = list(SPLITS).index(split)
    count = SPLITS[split] if size is None else size
    return [scene(np.random.default_rng([seed, part, index])) for index in range(count)]


def ensure(root: str | os.PathLike[str], write: Callable[[Path], None], version: int = VERSION) -> Path:
    """Make the folder of an embedded data set on first use; afterwards it is made of ordinary files.

    It is written beside ``root`` and moved into place in one step, so that it is whole or absent, whoever else does
    the same at the same time.

    Args:
        root: The folder, such as ``data/embedded/scenes_coco``.
        write: Writes everything into the folder that it is given.
        version: Of what is written; kept in ``drawn.json``.

    Returns:
        ``root``.

    Raises:
        UserError: There is something else at ``root``, or it cannot be written.
    """
    root = Path(root)
    if not root.exists():
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
        except OSError as error:
            raise UserError(f"the embedded data set {root} cannot be written ({error}).") from error
        try:
            temporary.chmod(0o755)
            write(temporary)
            (temporary / "drawn.json").write_text(json.dumps({"version": version}) + "\n")
            os.replace(temporary, root)
        except OSError as error:
            if not root.exists():  # else another process was first
                raise UserError(f"the embedded data set {root} cannot be written ({error}).") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    try:
        found = json.loads((root / "drawn.json").read_text())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != version:
        raise UserError(
            f"{root} holds {'no embedded data set' if found is None else f'version {found} of its data set'}, and "
            f"version {version} is needed: move it away or delete it, and it is drawn anew."
        )
    return root
