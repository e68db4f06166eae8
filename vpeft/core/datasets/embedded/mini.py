"""The embedded mini-benchmark: tasks in VTAB's three groups, from data that ships with the dependencies or is drawn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from mmengine.dataset import BaseDataset

from vpeft.core.datasets.embedded.pictures import PHOTOS, TEXTURES, digits, photos, textures, tissue
from vpeft.core.datasets.embedded.shifts import parse_shift, shift_images
from vpeft.core.datasets.embedded.sprites import count, distance, location, orientation
from vpeft.core.datasets.tasks import Splits, check_split, get_task, register_suite
from vpeft.registry import DATASETS

register_suite(
    "mini",
    Splits("train800", "val200", "train800val200", shifted=True),
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

#: What makes a task: ``f(split, size, rng) -> images (N, 32, 32, 3) RGB uint8, labels (N,)``, and of patches regions.
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


@dataclass(frozen=True)
class EmbeddedSuite:
    """What draws the tasks of a suite, and the names of their classes, by task."""

    makers: Mapping[str, Callable[..., Any]]
    classes: Mapping[str, tuple[str, ...]]


#: The suites whose tasks are made here, by their keys.
EMBEDDED = {"mini": EmbeddedSuite(MAKERS, CLASSES)}


class DrawnSplit(NamedTuple):
    """One split of an embedded task.

    Attributes:
        images: RGB uint8 ``(N, 32, 32, 3)``.
        labels: ``(N,)``.
        regions: Of each patch of a photograph the region that it is from; None where every image stands for itself.
    """

    images: np.ndarray
    labels: np.ndarray
    regions: list[str] | None = None


@functools.lru_cache(maxsize=32)
def drawn_split(task: str, split: str, seed: int = 0, suite: str = "mini") -> DrawnSplit:
    """One split of an embedded task, the same on every machine.

    Args:
        task: Name of a task.
        split: ``train800 | val200 | train800val200 | test``.
        seed: Seed of the drawing; the benchmark's is 0.
        suite: Of :data:`EMBEDDED`.
    """
    if split == "train800val200":
        first, second = (drawn_split(task, part, seed, suite) for part in ("train800", "val200"))
        images, labels = (np.concatenate([first[place], second[place]]) for place in (0, 1))
        return DrawnSplit(images, labels, None if first.regions is None else first.regions + second.regions)
    size = {"train800": 800, "val200": 200, "test": get_task(task, suite).test_size}[split]
    makers = EMBEDDED[suite].makers
    number = sorted(makers).index(task)
    rng = np.random.default_rng([seed, number, _PARTS[split]])
    drawn = DrawnSplit(*makers[task](split, size, rng))
    drawn.images.setflags(write=False)
    return drawn


def mini_split(task: str, split: str, seed: int = 0, suite: str = "mini") -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of :func:`drawn_split`."""
    return drawn_split(task, split, seed, suite)[:2]


@DATASETS.register_module()
class MiniVTAB(BaseDataset):
    """One embedded task, with the interface of ``VTAB1k``; images are held in memory.

    Args:
        task: Name of the task, or its alias.
        split: ``train800 | val200 | train800val200 | test``.
        seed: Seed of the drawing.
        shift: A corruption or change of style, such as ``noise-3`` (:mod:`vpeft.core.datasets.embedded.shifts`).
        **kwargs: Of mmengine's ``BaseDataset``, such as ``pipeline``.
    """

    #: Key of the suite.
    suite: ClassVar[str] = "mini"
    #: The classes that read an embedded suite, by its key.
    readers: ClassVar[dict[str, type[MiniVTAB]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        MiniVTAB.readers[cls.suite] = cls

    def __init__(
        self, task: str, split: str = "train800val200", seed: int = 0, shift: str | None = None, **kwargs
    ) -> None:
        self.task = get_task(task, self.suite)
        check_split(split, self.suite)
        if shift is not None:
            parse_shift(shift, self.task.name)
        self.split, self.seed, self.shift = split, seed, shift
        super().__init__(serialize_data=False, **kwargs)
        # Given as an argument, a text would be looked for as a file.
        self._metainfo.update(task=self.task.name, split=split)
        self._metainfo.setdefault("classes", EMBEDDED[self.suite].classes[self.task.name])

    @property
    def num_classes(self) -> int:
        """Classes of the task."""
        return self.task.num_classes

    def load_data_list(self) -> list[dict[str, Any]]:
        """The split's samples; ``img`` is BGR, as the pipelines expect, ``region`` of a patch where it is from."""
        images, labels, regions = drawn_split(self.task.name, self.split, self.seed, self.suite)
        if self.shift is not None:
            images = shift_images(images, self.shift, self.task.name, self.seed, self.split)
        rows = [
            {"img": np.ascontiguousarray(image[..., ::-1]), "gt_label": int(label), "task": self.task.name}
            for image, label in zip(images, labels, strict=True)
        ]
        for row, region in zip(rows, regions or (), strict=regions is not None):
            row["region"] = region
        return rows


MiniVTAB.readers[MiniVTAB.suite] = MiniVTAB
