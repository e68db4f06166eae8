"""The drawn scenes at 224 pixels, in front of photographs.

Classes and objects are those of :mod:`vpeft.core.datasets.embedded.scenes`. The background is a patch of one of
scikit-image's photographs, drawn larger; the regions that it comes from are those of its split alone, so that no
background of a test image is seen in training.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from vpeft.core.datasets.embedded.scenes import Scene, scene
from vpeft.core.datasets.real.patches import PLACES, grid_of, pixels_of
from vpeft.core.datasets.regions import PATCH, random_square, regions_of_split
from vpeft.errors import UserError
from vpeft.registry import nearest

#: Height and width of a scene in pixels.
REAL_SCENE_SIZE = 224
#: Images of each split.
REAL_SCENE_SPLITS = {"train": 400, "val": 100, "test": 200}
#: Whose regions of the photographs each split has.
_REGIONS_OF = {"train": "tune", "val": "val", "test": "test"}
#: Part of the seed, so that no scene is one of the embedded ones drawn large.
_REAL = 224


def draw_real_split(split: str, size: int | None = None, seed: int = 0) -> list[Scene]:
    """The scenes of one split; the first ones are the same whatever the size.

    Args:
        split: ``train | val | test``.
        size: How many, by default as many as :data:`REAL_SCENE_SPLITS` says.
        seed: Seed of the drawing; the benchmark's is 0.

    Raises:
        UserError: There is no such split, or the installed scikit-image does not carry a photograph.
    """
    if split not in REAL_SCENE_SPLITS:
        raise UserError(f"split {split!r} of the scenes does not exist: {nearest(split, REAL_SCENE_SPLITS)}")

    def ground(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        k = int(rng.integers(len(PLACES)))
        regions = regions_of_split(grid_of(PLACES[k]), _REGIONS_OF[split], salt=k)
        patch = Image.fromarray(pixels_of(random_square(PLACES[k], regions, PATCH, rng), grey=False))
        return np.asarray(patch.resize(x.shape, Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255.0

    part = list(REAL_SCENE_SPLITS).index(split)
    count = REAL_SCENE_SPLITS[split] if size is None else size
    return [scene(np.random.default_rng([seed, _REAL, part, i]), REAL_SCENE_SIZE, ground) for i in range(count)]
