"""Whole images drawn by a seed: Fashion-MNIST from its four idx files, and scikit-learn's digits."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vpeft.core.datasets.embedded.pictures import carried
from vpeft.core.datasets.load.idx import read_idx
from vpeft.core.datasets.real.balance import balanced_parts
from vpeft.errors import UserError

GARMENTS = ("T-shirt or top", "trousers", "pullover", "dress", "coat")
GARMENTS += ("sandal", "shirt", "trainer", "bag", "ankle boot")
#: Where the files may lie below the data root: Debian's name, torchvision's, the root itself.
FASHION_FOLDERS = ("fashion-mnist", "FashionMNIST/raw", ".")
#: Seed of the draws of training images.
DRAW_SEED = 0

#: Images, grey ``(N, H, W)`` or ``(N, H, W, 3)``, uint8, and labels ``(N,)``.
Labelled = tuple[np.ndarray, np.ndarray]


def fashion_files(root: str, part: str) -> list[Path]:
    """The files of images and labels of a part, ``train`` or ``t10k``.

    Raises:
        UserError: There are none below ``root``; the message names the package.
    """
    names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    for folder in FASHION_FOLDERS:
        for ending in (".gz", ""):
            files = [Path(root, folder, name + ending) for name in names]
            if all(file.is_file() for file in files):
                return files
    raise UserError(
        f"Fashion-MNIST: {Path(root, FASHION_FOLDERS[0])} holds no {names[0]}.gz with its labels: install Debian's "
        "package dataset-fashion-mnist and set data_root='/usr/share/datasets', or copy its four files there."
    )


@functools.lru_cache(maxsize=2)
def read_fashion(images: Path, labels: Path) -> Labelled:
    """A part's images and labels.

    Raises:
        UserError: A file is broken, images and labels are not as many, or a label is no class.
    """
    pixels, classes = read_idx(images, 3, "Fashion-MNIST"), read_idx(labels, 1, "Fashion-MNIST")
    if len(pixels) != len(classes):
        raise UserError(f"{images} holds {len(pixels)} images and {labels} {len(classes)} labels: copy both again.")
    if len(classes) and (top := int(classes.max())) >= len(GARMENTS):
        raise UserError(f"{labels}: label {top} is out of range: Fashion-MNIST has the classes 0 to 9.")
    return pixels, classes


class FashionMNIST:
    """Fashion-MNIST: training images drawn by a seed, balanced, and its 10,000 test images."""

    classes = GARMENTS

    def files(self, root: str, split: str) -> list[Path]:
        """The files of ``tune``, ``val`` or ``test``."""
        return fashion_files(root, "t10k" if split == "test" else "train")

    def read(self, root: str, split: str, sizes: Mapping[str, int]) -> Labelled:
        """Images ``(N, 28, 28, 3)`` and labels of a split, as many as ``sizes`` says."""
        pixels, labels = read_fashion(*self.files(root, split))
        if split != "test":
            each, drawn = np.bincount(labels, minlength=len(GARMENTS)).min(), sizes["tune"] + sizes["val"]
            if each * len(GARMENTS) < drawn:
                raise UserError(
                    f"Fashion-MNIST below {root} has {each} training images of a class where "
                    f"{drawn // len(GARMENTS)} are drawn: copy its files again."
                )
            chosen = balanced_parts(labels, (sizes["tune"], sizes["val"]), DRAW_SEED)[split == "val"]
            pixels, labels = pixels[chosen], labels[chosen]
        return _three_channels(pixels), labels.astype(np.int64)


class ScannedDigits:
    """scikit-learn's 1797 scanned digits, 8 x 8 pixels of 17 greys, bright ink on black; what is not drawn is for the
    test.
    """

    classes = tuple(map(str, range(10)))

    def files(self, root: str, split: str) -> list[Path]:
        """The package's file, wherever ``root`` is."""
        return [carried("sklearn", "scikit-learn", "datasets/data/digits.csv.gz")]

    def read(self, root: str, split: str, sizes: Mapping[str, int]) -> Labelled:
        """Images ``(N, 8, 8, 3)`` and labels of a split, as many as ``sizes`` says."""
        table = np.loadtxt(self.files(root, split)[0], delimiter=",").astype(np.int64)
        scans, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
        parts = balanced_parts(labels, (sizes["tune"], sizes["val"]), DRAW_SEED)
        chosen = parts[("tune", "val", "test").index(split)]
        return _three_channels((scans[chosen] * 255 // 16).astype(np.uint8)), labels[chosen]


def _three_channels(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=3)
