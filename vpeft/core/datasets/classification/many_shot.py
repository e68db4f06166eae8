"""Whole data sets instead of 1,000 images of each ("many shot")."""

from __future__ import annotations

from pathlib import Path

from vpeft.core.datasets.classification.listed import ListedImages
from vpeft.core.datasets.tasks import Splits, register_suite
from vpeft.registry import DATASETS

# Of the study arXiv 2409.16434; how much of the training images is `val` is ours.
register_suite(
    "many_shot",
    Splits("train", "val", "trainval"),
    {
        None: [
            ("cifar100_full", 100, 10_000, True, ("cifar100",), (45_000, 5_000)),
            ("resisc45_full", 45, 6_300, True, ("resisc45",), (22_680, 2_520)),
            ("clevr_dist_full", 6, 15_000, True, ("clevr_dist",), (63_000, 7_000)),
        ]
    },
    title="many-shot",
)


@DATASETS.register_module()
class ManyShot(ListedImages):
    """One whole data set, in the layout of VTAB-1k's tasks.

    ``trainval`` is the two lists behind one another and needs no file::

        <data_root>/<task>/{train,val,test}.txt
        <data_root>/<task>/images/...

    CIFAR-100 (50,000 images), RESISC45 (25,200) and Clevr-distance (70,000) are those of arXiv 2409.16434, which also
    trains on five images of each class (``shots`` of a plan).
    """

    suite, title = "many_shot", "many-shot"

    def files(self, folder: Path) -> list[Path]:
        """``trainval`` is of two lists."""
        names = ("train", "val") if self.split == "trainval" else (self.split,)
        return [folder / f"{name}{self.suffix}" for name in names]
