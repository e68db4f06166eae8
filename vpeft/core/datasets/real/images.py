"""The suites of real images: nine tasks with the protocol of VTAB-1k, and Fashion-MNIST whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vpeft.core.datasets.classification.listed import ListedImages
from vpeft.core.datasets.real.drawn import FashionMNIST, ScannedDigits
from vpeft.core.datasets.real.patches import PATCH_TASKS
from vpeft.core.datasets.tasks import SPLITS, SUITES, Splits, register_suite
from vpeft.errors import UserError
from vpeft.registry import DATASETS

register_suite(
    "real",
    Splits("train800", "val200", "train800val200"),
    {
        "natural": [
            ("real_fashion", 10, 10_000, True, ("fashion",)),
            ("real_digits", 10, 797, False, ("digits",)),
            ("real_photos", 10, 1_000, True, ("photos",)),
        ],
        "specialized": [
            ("real_textures", 6, 600, True, ("textures",)),
            ("real_tissue", 4, 800, True, ("tissue",)),
            ("real_retina", 9, 900, False, ("retina",)),
        ],
        "structured": [
            ("real_depth", 4, 800, True, ("depth",)),
            ("real_turns", 4, 800, False, ("turns",)),
            ("real_galaxies", 4, 800, True, ("galaxies",)),
        ],
    },
    title="real images",
)
register_suite(
    "real_whole",
    Splits("train", "val", "trainval"),
    {None: [("fashion_full", 10, 10_000, True, ("fashion",), (55_000, 5_000))]},
    title="whole real images",
)

#: Where Debian's packages of data lie.
DEBIAN = "/usr/share/datasets"
#: Where a task's images come from, by its name: ``classes``, ``files(root, split)``, ``read(root, split, sizes)``.
SOURCES: dict[str, Any] = {
    "real_fashion": FashionMNIST(),
    "fashion_full": FashionMNIST(),
    "real_digits": ScannedDigits(),
    **PATCH_TASKS,
}


def real_split(suite: str, task: str, split: str, root: str = DEBIAN) -> tuple[np.ndarray, np.ndarray]:
    """Images in RGB, ``(N, H, W, 3)``, and labels ``(N,)`` of one split, the same on every machine.

    Args:
        suite: ``real | real_whole``.
        task: Name of its task.
        split: One of the suite's.
        root: Folder below which Fashion-MNIST lies.

    Raises:
        UserError: Files are missing or broken.
    """
    names, known = SPLITS[suite], SUITES[suite][task]
    if split == names.final:
        both = [real_split(suite, task, part, root) for part in (names.tune, names.val)]
        return tuple(np.concatenate(arrays) for arrays in zip(*both, strict=True))
    tune, val = known.train_sizes
    sizes = {"tune": tune, "val": val, "test": known.test_size}
    return SOURCES[task].read(root, {names.tune: "tune", names.val: "val", names.test: "test"}[split], sizes)


@DATASETS.register_module()
class RealImages(ListedImages):
    """One task of real images, with the interface of ``VTAB1k``; images are held in memory.

    Fashion-MNIST's four idx files lie in ``<data_root>/fashion-mnist``, ``<data_root>/FashionMNIST/raw`` or
    ``<data_root>``; everything else is read from the installed scikit-learn and scikit-image.

    Args:
        task: Name of the task.
        split: ``train800 | val200 | train800val200 | test``.
        data_root: Folder below which Fashion-MNIST lies.
        **kwargs: Of mmengine's ``BaseDataset``, such as ``pipeline``.

    Raises:
        UserError: Files are missing or broken: one line says which package or path.
    """

    suite, title, in_memory = "real", "real images", True

    def __init__(self, data_root: str = DEBIAN, task: str = "real_digits", split: str | None = None, **kwargs) -> None:
        super().__init__(data_root, task, split, serialize_data=False, **kwargs)
        self._metainfo.setdefault("classes", SOURCES[self.task.name].classes)

    def folder(self) -> Path:
        """The data root: no task has a folder of its own."""
        return Path(self.data_root)

    def absence(self) -> str | None:
        """Which package or path lacks the task's files; None where some are there."""
        for split in ("tune", "test"):
            try:
                SOURCES[self.task.name].files(self.data_root, split)
                return None
            except UserError as error:
                found = str(error)
        return found

    def files(self, folder: Path) -> list[Path]:
        """The files that the split's images are drawn or cut from."""
        split = "test" if self.split == SPLITS[self.suite].test else "tune"
        return SOURCES[self.task.name].files(str(folder), split)

    def load_data_list(self) -> list[dict[str, Any]]:
        """The split's samples; ``img`` is BGR, as the pipelines expect."""
        images, labels = real_split(self.suite, self.task.name, self.split, self.data_root)
        return [
            {"img": np.ascontiguousarray(image[..., ::-1]), "gt_label": int(label), "task": self.task.name}
            for image, label in zip(images, labels, strict=True)
        ]


@DATASETS.register_module()
class WholeRealImages(RealImages):
    """Fashion-MNIST with all its training images, of which 5,000 are ``val`` (:class:`RealImages`)."""

    suite, title = "real_whole", "whole real images"

    def __init__(self, data_root: str = DEBIAN, task: str = "fashion_full", split: str | None = None, **kwargs) -> None:
        super().__init__(data_root, task, split, **kwargs)
