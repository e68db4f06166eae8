"""Shifted versions of the embedded tasks: corruptions and changes of style that leave the label what it was.

A shift is written ``<kind>-<severity>``, such as ``noise-3``, with severities 1 to 5; ``mixed-3`` gives every image a
kind of its own. What is random follows from task, split, shift and the data's seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from vpeft.errors import UserError
from vpeft.registry import nearest

SEVERITIES = (1, 2, 3, 4, 5)
MIXED = "mixed"

Shift = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def _noise(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of a standard deviation of 12 to 60."""
    return x + rng.normal(0, 12 * severity, x.shape)


def _blur(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian of 0.4 to 2 pixels."""
    from scipy import ndimage  # only here: its import takes a while

    return ndimage.gaussian_filter(x, (0.4 * severity, 0.4 * severity, 0))


def _contrast(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Towards the image's mean, until a tenth of the contrast is left."""
    mean = x.mean((0, 1), keepdims=True)
    return mean + (x - mean) * (1 - 0.18 * severity)


def _brightness(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Lighter or darker by up to half of the range."""
    return x + rng.choice((-1, 1)) * 25.5 * severity


def _invert(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Towards the negative: grey at severity 2.5, the negative itself at 5."""
    return x + (255 - 2 * x) * severity / 5


def _rotate(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """By up to 3 to 15 degrees, either way; the border is repeated."""
    from scipy import ndimage

    angle = rng.uniform(-3 * severity, 3 * severity)
    return ndimage.rotate(x, angle, reshape=False, order=1, mode="nearest")


def _colour(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Channels mixed by a random matrix whose rows add up to one: grey stays grey."""
    other = rng.dirichlet(np.ones(3), 3)
    return x @ (np.eye(3) * (1 - severity / 5) + other * severity / 5).T


def _pixelate(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Every pixel takes the mean of its surroundings of 1.4 to 3 pixels, in squares."""
    size = max(8, round(x.shape[0] / (1 + 0.4 * severity)))
    rows, columns = (np.arange(length) * size // length for length in x.shape[:2])
    sums = np.zeros((size, size, 3))
    np.add.at(sums, (rows[:, None], columns[None]), x)
    counts = np.bincount(rows)[:, None] * np.bincount(columns)[None]
    return (sums / counts[..., None])[rows[:, None], columns[None]]


#: ``f(image float64 (H, W, 3) in 0..255, severity, rng)``; what leaves the range is clipped.
SHIFTS: dict[str, Shift] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "invert": _invert,
    "rotate": _rotate,
    "colour": _colour,
    "pixelate": _pixelate,
}
#: Kinds that could change the label, by task.
UNSAFE = {f"sprite_{what}{version}": ("rotate",) for what in ("location", "orientation") for version in ("", "_v2")}


def safe_shifts(task: str) -> list[str]:
    """Kinds that leave a task's label what it was."""
    return [kind for kind in SHIFTS if kind not in UNSAFE.get(task, ())]


def parse_shift(shift: str, task: str = "") -> tuple[str, int]:
    """Kind and severity of ``noise-3``.

    Raises:
        UserError: Unknown kind or severity, or a kind that would change the task's label.
    """
    kind, _, severity = str(shift).rpartition("-")
    known = [*SHIFTS, MIXED]
    if kind not in known:
        raise UserError(f"shift={shift!r}: a shift is written <kind>-<severity>: {nearest(kind or shift, known)}")
    if not severity.isdigit() or int(severity) not in SEVERITIES:
        raise UserError(f"shift={shift!r}: the severity must be from 1 to 5.")
    if kind in UNSAFE.get(task, ()):
        raise UserError(
            f"shift={shift!r} would change the label of task {task}: {nearest('', [*safe_shifts(task), MIXED])}"
        )
    return kind, int(severity)


def shift_images(images: np.ndarray, shift: str, task: str = "", seed: int = 0, split: str = "test") -> np.ndarray:
    """Shifted copies of images.

    Args:
        images: ``(N, H, W, 3)``, uint8.
        shift: Such as ``noise-3``.
        task: Its task, whose labels are not to change.
        seed: Seed of the data.
        split: Its split, so that no two splits are shifted alike.

    Returns:
        The same shape and type.
    """
    kind, severity = parse_shift(shift, task)
    rng = np.random.default_rng([seed, zlib.crc32(f"{task} {split} {shift}".encode())])
    kinds = safe_shifts(task) if kind == MIXED else [kind]
    out = np.empty_like(images)
    for i, image in enumerate(images):
        one = SHIFTS[kinds[rng.integers(len(kinds))]](image.astype(np.float64), severity, rng)
        out[i] = np.clip(np.rint(one), 0, 255)
    return out
