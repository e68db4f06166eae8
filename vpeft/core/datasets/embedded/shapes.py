"""Pretraining images drawn by rule: textured shapes on cluttered backgrounds, for the nano hosts.

The labels of an image are the family of its shape and the family of its texture. Position, size, orientation,
colour and number of copies are drawn at random and are no part of these labels, so that features trained here
leave the structured tasks (location, orientation, count, distance) to the adaptation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vpeft.errors import UserError

Array = np.ndarray
#: Images drawn at once: large enough for numpy, small enough for the cache.
BLOCK = 500
#: Part of the images with a textured background and lines before and behind the shape.
BUSY = 0.5
#: At most so many copies of the shape stand in one image.
COPIES = 3


def _box(u: Array, v: Array, half_u: Array | float, half_v: Array | float) -> Array:
    return np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)


def _triangle(u: Array, v: Array, w: Array) -> Array:
    return np.maximum(-v, np.abs(u) * 0.866 + v * 0.5) - 0.5


def _star(u: Array, v: Array, w: Array) -> Array:
    # Fold the plane onto one half of a point; its edge runs from the tip (1, 0) to the notch at 36 degrees.
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(v, u) + fifth / 2) % fifth - fifth / 2)
    radius = np.hypot(u, v)
    notch = 0.42 * np.exp(1j * fifth / 2)
    edge = notch - 1.0
    normal = edge / abs(edge) * -1j
    return (radius * np.cos(angle) - 1.0) * normal.real + radius * np.sin(angle) * normal.imag


def _crescent(u: Array, v: Array, w: Array) -> Array:
    return np.maximum(np.hypot(u, v) - 0.95, 0.8 - np.hypot(u - 0.5, v))


def _tee(u: Array, v: Array, w: Array) -> Array:
    return np.minimum(_box(u, v + 0.9 - w, 0.85, w), _box(u, v, w, 0.9))


def _ell(u: Array, v: Array, w: Array) -> Array:
    return np.minimum(_box(u + 0.7 - w, v, w, 0.9), _box(u, v - 0.9 + w, 0.7, w))


def _cup(u: Array, v: Array, w: Array) -> Array:
    return np.minimum(_box(np.abs(u) - 0.8 + w, v, w, 0.85), _box(u, v - 0.85 + w, 0.8, w))


def _zed(u: Array, v: Array, w: Array) -> Array:
    bars = _box(u, np.abs(v) - 0.9 + w, 0.8, w)
    return np.minimum(bars, np.maximum(np.abs(u * 0.75 + v * 0.66) - w, np.abs(v) - 0.9))


#: Signed distance of each shape, negative inside, in units of its radius; ``w`` is half the width of a stroke.
SHAPES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "disc": lambda u, v, w: np.hypot(u, v) - 0.85,
    "ring": lambda u, v, w: np.abs(np.hypot(u, v) - 0.75) - 0.9 * w,
    "square": lambda u, v, w: _box(u, v, 0.75, 0.75),
    "triangle": _triangle,
    "star": _star,
    "cross": lambda u, v, w: np.minimum(_box(u, v, 1.0, w), _box(u, v, w, 1.0)),
    "bar": lambda u, v, w: _box(u, v, 1.1, w + 0.05),
    "crescent": _crescent,
    "tee": _tee,
    "ell": _ell,
    "cup": _cup,
    "zed": _zed,
}

#: Families of textures: each is a pattern in [0, 1] that mixes two colours.
TEXTURES = ("plain", "stripes", "checker", "dots", "rings", "gradient", "fine noise", "coarse noise")


def _smooth_noise(rng: np.random.Generator, n: int, size: int, cell: int) -> Array:
    """Bilinear noise in [0, 1] with knots every ``cell`` pixels at a random offset: ``(n, size, size)``."""
    knots = rng.random((n, size // cell + 3, size // cell + 3), dtype=np.float32)
    at = (np.arange(size) + rng.integers(cell)) / cell
    low = at.astype(int)
    part = (at - low).astype(np.float32)
    rows = knots[:, low] * (1 - part)[:, None] + knots[:, low + 1] * part[:, None]
    return rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part


def patterns(rng: np.random.Generator, family: Array, x: Array, y: Array) -> Array:
    """One pattern for each entry of ``family`` (indices of :data:`TEXTURES`) on the pixel grid ``x, y``."""
    n, size = len(family), x.shape[-1]
    angle, period = rng.uniform(0, np.pi, (n, 1, 1)), rng.uniform(3.2, 7.5, (n, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, (2, n, 1, 1))
    centre = rng.uniform(0.2, 0.8, (2, n, 1, 1)) * size
    along = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
    across = (y * np.cos(angle) - x * np.sin(angle)).astype(np.float32)
    wave = (2 * np.pi / period).astype(np.float32)
    first, second = np.sin(along * wave + phase[0]), np.sin(across * wave + phase[1])
    pattern = np.zeros((n, size, size), np.float32)

    def put(name: str, values: Callable[[Array], Array]) -> None:
        chosen = np.flatnonzero(family == TEXTURES.index(name))
        if len(chosen):
            pattern[chosen] = np.clip(values(chosen), 0, 1)

    put("stripes", lambda i: 0.5 + 2 * first[i])
    put("checker", lambda i: 0.5 + 4 * first[i] * second[i])
    put("dots", lambda i: 3 * (first[i] + second[i] - 0.7))
    put("rings", lambda i: 0.5 + 2 * np.sin(np.hypot(x - centre[0][i], y - centre[1][i]) * wave[i]))
    put("gradient", lambda i: 0.5 + (along[i] - along[i].mean((1, 2), keepdims=True)) / (0.7 * size))
    put("fine noise", lambda i: rng.random((len(i), size, size), dtype=np.float32))
    put("coarse noise", lambda i: 2.4 * (_smooth_noise(rng, len(i), size, rng.integers(3, 6)) - 0.29))
    return pattern


def _far_colours(rng: np.random.Generator, grey: Array, others: list[Array]) -> Array:
    """Colours ``(n, 3)`` that are, of five drawn, the farthest from all of ``others``; grey where asked."""
    drawn = rng.random((5, len(grey), 3), dtype=np.float32)
    drawn = np.where(grey[:, None], drawn[..., :1], drawn)
    distance = np.min([np.abs(drawn - other).sum(-1) for other in others], axis=0)
    return drawn[distance.argmax(0), np.arange(len(grey))]


def _blend(image: Array, colour: Array, mask: Array) -> None:
    image += (colour - image) * mask[:, None]


def _strips(rng: np.random.Generator, image: Array, x: Array, y: Array, chance: Array, width: float) -> None:
    """Draw one straight line of a random colour over part of the images, in place."""
    n, size = len(image), x.shape[-1]
    start, end = rng.uniform(0, size, (2, 2, n, 1, 1)).astype(np.float32)
    step = end - start
    length = np.maximum((step**2).sum(0), 1.0)
    part = np.clip(((x - start[0]) * step[0] + (y - start[1]) * step[1]) / length, 0, 1)
    distance = np.hypot(x - start[0] - part * step[0], y - start[1] - part * step[1])
    half = rng.uniform(0.4, width / 2, (n, 1, 1)).astype(np.float32)
    drawn = (rng.random(n) < chance)[:, None, None].astype(np.float32)
    colour = rng.random((n, 3, 1, 1), dtype=np.float32)
    _blend(image, colour, np.clip(half + 0.5 - distance, 0, 1) * drawn)


def _masks(rng: np.random.Generator, shape: Array, x: Array, y: Array) -> Array:
    """The area that the one to three copies of each image's shape cover, smoothed at its edge."""
    n, size = len(shape), x.shape[-1]
    scale = size / 32
    copies = rng.choice(np.arange(1, COPIES + 1), n, p=[0.7, 0.2, 0.1])
    quarters = rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1)
    stroke = rng.uniform(0.2, 0.32, (n, 1, 1)).astype(np.float32)
    mask = np.zeros((n, size, size), np.float32)
    for copy in range(COPIES):
        present = np.flatnonzero(copies > copy)
        several = copies[present] > 1
        smallest, biggest = np.where(several, 6.0, 7.0), np.where(several, 8.5, 14.0)
        radius = (rng.uniform(smallest, biggest) * scale).astype(np.float32)[:, None, None]
        # Several copies stand in different quarters of the image, so that they hardly overlap.
        reach = np.where(several[:, None, None], 6.5 * scale, 0.7 * radius)
        quarter = quarters[present, copy]
        shift = [np.where(several, side, 0)[:, None, None] * size / 2 for side in (quarter % 2, quarter // 2)]
        width = np.where(several, size / 2, size)[:, None, None] - 1
        cx, cy = (side + rng.uniform(reach, np.maximum(width - reach, reach + 1)) for side in shift)
        angle = rng.uniform(0, 2 * np.pi, (len(present), 1, 1)).astype(np.float32)
        stretch = rng.uniform(0.85, 1.18, (len(present), 1, 1)).astype(np.float32)
        right, down = (x - cx).astype(np.float32), (y - cy).astype(np.float32)
        u = (right * np.cos(angle) + down * np.sin(angle)) / (radius * stretch)
        v = (down * np.cos(angle) - right * np.sin(angle)) / (radius / stretch)
        for index, distance in enumerate(SHAPES.values()):
            chosen = np.flatnonzero(shape[present] == index)
            if len(chosen):
                inside = distance(u[chosen], v[chosen], stroke[present[chosen]]) * radius[chosen]
                area = np.clip(0.5 - inside, 0, 1)
                mask[present[chosen]] = np.maximum(mask[present[chosen]], area)
    return mask


class Shapes(NamedTuple):
    """Drawn images and what is known of them.

    Attributes:
        images: RGB uint8 ``(n, 3, size, size)``.
        masks: Area of the shapes, uint8 from 0 to 255, ``(n, size, size)``.
        shapes: Indices of :data:`SHAPES`, int64 ``(n,)``.
        textures: Indices of :data:`TEXTURES` for the shapes, int64 ``(n,)``.
        backdrops: The same for the backgrounds.
    """

    images: Array
    masks: Array
    shapes: Array
    textures: Array
    backdrops: Array


def _draw_block(rng: np.random.Generator, n: int, size: int) -> Shapes:
    y, x = np.mgrid[:size, :size].astype(np.float32)
    shape, texture = rng.integers(len(SHAPES), size=n), rng.integers(len(TEXTURES), size=n)
    grey = rng.random(n) < 0.25
    busy = rng.random(n) < BUSY  # the others have a plain background, which teaches the labels sooner

    base = rng.random((n, 3), dtype=np.float32)
    base = np.where(grey[:, None], base[:, :1], base)
    other = base + rng.uniform(-0.3, 0.3, (n, 3)).astype(np.float32) * np.where(grey[:, None], [1, 0, 0], 1)
    other = np.where(grey[:, None], other[:, :1], other).astype(np.float32)
    behind = rng.integers(len(TEXTURES), size=n) * busy
    backdrop = patterns(rng, behind, x, y)[:, None]
    image = base[..., None, None] * (1 - backdrop) + other[..., None, None] * backdrop
    _strips(rng, image, x, y, 0.4 * busy, 3.0)

    one = _far_colours(rng, grey, [base, other])
    two = _far_colours(rng, grey, [base, one])
    pattern = patterns(rng, texture, x, y)[:, None]
    filling = one[..., None, None] * (1 - pattern) + two[..., None, None] * pattern
    mask = _masks(rng, shape, x, y)
    _blend(image, filling, mask)
    _strips(rng, image, x, y, 0.2 * busy, 2.5)  # a line in front hides a part

    # Light: a gain and an offset for each image, and a slope across it; then the noise of a sensor.
    slope = rng.uniform(-0.25, 0.25, (2, n, 1, 1)).astype(np.float32)
    light = rng.uniform(0.75, 1.2, (n, 1, 1)) + slope[0] * (x / size - 0.5) + slope[1] * (y / size - 0.5)
    image = image * light[:, None] + rng.uniform(-0.1, 0.1, (n, 1, 1, 1))
    image += rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0, 0.04, (n, 1, 1, 1))
    image = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return Shapes(image, (mask * 255).round().astype(np.uint8), shape, texture, behind)


def draw_shapes(n: int, seed: int | list[int], size: int = 32) -> Shapes:
    """Draw labelled images by rule; the same arguments give the same images.

    Args:
        n: How many images, at least 1.
        seed: Of the random numbers; a list such as ``[seed, epoch]`` keeps sets apart.
        size: Height and width in pixels, at least 16.

    Returns:
        The images, masks and labels.

    Raises:
        UserError: If ``n`` or ``size`` is too small.
    """
    if n < 1 or size < 16:
        raise UserError(f"draw_shapes: n={n} must be at least 1 and size={size} at least 16 pixels.")
    rng = np.random.default_rng(seed)
    blocks = [_draw_block(rng, min(BLOCK, n - start), size) for start in range(0, n, BLOCK)]
    return Shapes(*(np.concatenate(part) for part in zip(*blocks, strict=True)))
