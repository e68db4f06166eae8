"""Whole data sets instead of 1,000 images of each ("many shot")."""

from __future__ import annotations

from pathlib import Path

from vpeft.core.datasets.classification.listed import ListedImages
from vpeft.registry import DATASETS


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
