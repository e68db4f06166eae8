"""The embedded mini-benchmark: tasks in VTAB's three groups, from data that ships with the dependencies or is drawn."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from vpeft.core.datasets.embedded.pictures import PHOTOS, TEXTURES, digits, photos, textures, tissue
from vpeft.core.datasets.embedded.shifts import parse_shift, shift_images
from vpeft.core.datasets.embedded.sprites import count, distance, location, orientation
from vpeft.core.datasets.tasks import Splits, check_split, get_task, register_suite
from vpeft.registry import DATASETS

register_suite(
    "mini",
    Splits("train800", "val200", "train800val200"),
    {
        "natural": [("digits", 10, 797, False), ("photos", 8, 800)],
        "specialized": [("textures", 6, 804), ("tissue", 4, 800)],
        "structured": [
            ("sprite_location", 16, 800, False),
            ("sprite_orientation", 8, 800, False),
            ("sprite_count", 6, 804),
            ("sprite_distance", 6, 804),
        ],
    },
    title="mini-benchmark",
)

#: What makes a task: ``f(split, size, rng) -> images (N, 32, 32, 3) RGB uint8, labels (N,)``.
MAKERS = {
    "digits": digits,
    "photos": photos,
    "textures": textures,
    "tissue": tissue,
    "sprite_location": location,
    "sprite_orientation": orientation,
    "sprite_count": count,
    "sprite_distance": distance,
}
#: Names of the classes, the label is the index.
CLASSES: dict[str, tuple[str, ...]] = {
    "digits": tuple(map(str, range(10))),
    "photos": PHOTOS,
    "textures": tuple(f"{kind}, {far}" for kind in TEXTURES for far in ("near", "far")),
    "tissue": ("least brown", "less brown", "more brown", "most brown"),
    "sprite_location": tuple(f"row {row}, column {column}" for row in range(1, 5) for column in range(1, 5)),
    "sprite_orientation": tuple(f"{45 * k} degrees" for k in range(8)),
    "sprite_count": ("1 shape", *(f"{k} shapes" for k in range(2, 7))),
    "sprite_distance": tuple(f"depth {1 + 0.6 * k:.1f} to {1.6 + 0.6 * k:.1f}" for k in range(6)),
}
_PARTS = {"train800": 0, "val200": 1, "test": 2}


@functools.lru_cache(maxsize=32)
def mini_split(task: str, split: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(N, 32, 32, 3)`` in RGB and labels ``(N,)`` of one split, the same on every machine.

    Args:
        task: Name of a mini task.
        split: ``train800 | val200 | train800val200 | test``.
        seed: Seed of the drawing; the benchmark's is 0.
    """
    if split == "train800val200":
        parts = [mini_split(task, part, seed) for part in ("train800", "val200")]
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    size = {"train800": 800, "val200": 200, "test": get_task(task, "mini").test_size}[split]
    number = sorted(MAKERS).index(task)
    rng = np.random.default_rng([seed, number, _PARTS[split]])
    images, labels = MAKERS[task](split, size, rng)
    images.setflags(write=False)
    return images, labels


@DATASETS.register_module()
class MiniVTAB(BaseDataset):
    """One embedded task, with the interface of ``VTAB1k``; images are held in memory.

    Args:
        task: Name of the task.
        split: ``train800 | val200 | train800val200 | test``.
        seed: Seed of the drawing.
        shift: A corruption or change of style, such as ``noise-3`` (:mod:`vpeft.core.datasets.embedded.shifts`).
        **kwargs: Of mmengine's ``BaseDataset``, such as ``pipeline``.
    """

    def __init__(
        self, task: str, split: str = "train800val200", seed: int = 0, shift: str | None = None, **kwargs
    ) -> None:
        self.task = get_task(task, "mini")
        check_split(split, "mini")
        if shift is not None:
            parse_shift(shift, self.task.name)
        self.split, self.seed, self.shift = split, seed, shift
        super().__init__(serialize_data=False, **kwargs)
        # Given as an argument, a text would be looked for as a file.
        self._metainfo.update(task=self.task.name, split=split)
        self._metainfo.setdefault("classes", CLASSES[self.task.name])

    @property
    def num_classes(self) -> int:
        """Classes of the task."""
        return self.task.num_classes

    def load_data_list(self) -> list[dict[str, Any]]:
        """The split's samples; ``img`` is BGR, as the pipelines expect."""
        images, labels = mini_split(self.task.name, self.split, self.seed)
        if self.shift is not None:
            images = shift_images(images, self.shift, self.task.name, self.seed, self.split)
        return [
            {"img": np.ascontiguousarray(image[..., ::-1]), "gt_label": int(label), "task": self.task.name}
            for image, label in zip(images, labels, strict=True)
        ]
