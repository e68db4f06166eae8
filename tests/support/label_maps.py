"""A tiny data set in the public layout of ADE20K."""

from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]


def write_ade20k(root: Path, train: int, val: int) -> Path:
    """Random pictures of 40 x 60 pixels with maps of the values 0 to 150, under the public names."""
    rng = np.random.default_rng(0)
    for split, count in {"training": train, "validation": val}.items():
        images, maps = root / "images" / split, root / "annotations" / split
        images.mkdir(parents=True)
        maps.mkdir(parents=True)
        for number in range(1, count + 1):
            name = f"ADE_{split[:5] if split == 'training' else 'val'}_{number:08d}"
            Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(images / f"{name}.jpg")
            Image.fromarray(rng.integers(0, 151, (40, 60), dtype=np.uint8)).save(maps / f"{name}.png")
    return root
