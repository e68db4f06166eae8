"""ImageNet and its shifted test sets (V2, R, Sketch, A), in their public folder layouts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmpretrain.evaluation import Accuracy

from vpeft.errors import UserError
from vpeft.registry import DATASETS, METRICS

#: A class folder of ImageNet and of R, Sketch, A: its WordNet identifier.
WNID = re.compile(r"n\d{8}")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def class_folders(root: Path, what: str) -> list[str]:
    """Names of the class folders below ``root``, sorted: all WordNet identifiers, or all class numbers (V2).

    Raises:
        UserError: ``root`` is missing or holds no class folders, or both kinds; the message says what to do.
    """
    if not root.is_dir():
        raise UserError(f"{what}: folder {root} does not exist: unpack it there or set data_root (docs/analysis.md).")
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    wnids = [name for name in names if WNID.fullmatch(name)]
    numbers = [name for name in names if name.isdigit()]
    if wnids and numbers:
        raise UserError(f"{what}: {root} holds class folders of both kinds, {wnids[0]} and {numbers[0]}.")
    if wnids or numbers:
        return wnids or sorted(numbers, key=int)
    inner = [name for name in names if any(WNID.fullmatch(e.name) or e.name.isdigit() for e in os.scandir(root / name))]
    hint = f"set data_root to {root / inner[0]}" if inner else "sort the images into a folder per class first"
    raise UserError(f"{what}: {root} holds no class folders (n01440764, ... or 0, 1, ...): {hint}.")


@DATASETS.register_module()
class ImageNetShift(BaseDataset):
    """Images in class folders, with the labels of ImageNet's training set.

    Class i is the i-th of the training set's folders in alphabetical order. In the other sets a folder that is named by
    a WordNet identifier has the label of the training folder of that name, and one that is named by a number (V2) that
    number, not its place in the alphabet. A set with fewer classes (R and A have 200) says so in its ``metainfo``
    (``subset``), which :class:`SubsetAccuracy` reads.

    Args:
        data_root: Folder that holds the class folders.
        classes_root: The training set's folder; its subfolders are the classes.
        name: Name of the set, for messages and results.
        num_classes: How many classes the training set must have.
        shots: Take so many images of each class, the same for every method; None takes all.
        seed: Seed of that choice.
        **kwargs: Of mmengine's ``BaseDataset``, such as ``pipeline``.

    Raises:
        UserError: A folder is missing or empty, a class is unknown or has too few images; the message says which.
    """

    def __init__(
        self,
        data_root: str,
        classes_root: str,
        name: str = "imagenet",
        num_classes: int = 1000,
        shots: int | None = None,
        seed: int = 0,
        **kwargs,
    ) -> None:
        self.name, self.num_classes, self.shots, self.seed = name, num_classes, shots, seed
        self.classes_root = classes_root
        super().__init__(data_root=data_root, **kwargs)

    def labels(self) -> dict[str, int]:
        """The label of every class folder of this set."""
        classes = class_folders(Path(self.classes_root), f"{self.name}: the training set that names the classes")
        if len(classes) != self.num_classes:
            raise UserError(
                f"{self.name}: {self.classes_root} holds {len(classes)} class folders where {self.num_classes} are "
                "expected: labels would be shifted. Unpack the whole training set, or only its (empty) folders."
            )
        if not WNID.fullmatch(classes[0]):
            raise UserError(f"{self.name}: the folders of {self.classes_root} must be named by WordNet identifiers.")
        places = {wnid: place for place, wnid in enumerate(classes)}
        places |= {str(place): place for place in range(len(classes))}
        folders = class_folders(Path(self.data_root), self.name)
        unknown = [folder for folder in folders if folder not in places]
        if unknown:
            raise UserError(
                f"{self.name}: {len(unknown)} class folders of {self.data_root}, such as {unknown[0]}, are no class of "
                f"the training set {self.classes_root}."
            )
        self._metainfo.update(classes=tuple(classes), name=self.name)
        found = {folder: places[folder] for folder in folders}
        if len(found) < len(classes):
            self._metainfo.update(subset=tuple(sorted(found.values())))
        return found

    def load_data_list(self) -> list[dict[str, Any]]:
        """Every image, class by class in the order of labels."""
        rows = []
        for folder, label in sorted(self.labels().items(), key=lambda item: item[1]):
            place = Path(self.data_root) / folder
            files = sorted(e.name for e in os.scandir(place) if e.name.lower().endswith(SUFFIXES))
            if not files or (self.shots is not None and len(files) < self.shots):
                need = "none" if not files else f"{len(files)} images where shots={self.shots} are asked for"
                raise UserError(f"{self.name}: class folder {place} holds {need}: unpack it again.")
            if self.shots is not None:
                rng = np.random.default_rng([self.seed, label])
                files = [files[i] for i in sorted(rng.permutation(len(files))[: self.shots])]
            rows += [{"img_path": str(place / file), "gt_label": label, "task": self.name} for file in files]
        return rows

    def prepare_data(self, idx: int) -> Any:
        """One sample; a broken image stops the run instead of being replaced by another."""
        return self.pipeline(self.get_data_info(idx))


@METRICS.register_module()
class SubsetAccuracy(Accuracy):
    """mmpretrain's ``Accuracy`` among the classes that a data set has: its ``metainfo``'s ``subset``, or all."""

    def process(self, data_batch: Any, data_samples: list[dict[str, Any]]) -> None:
        """Leave the other classes no score."""
        subset = (self.dataset_meta or {}).get("subset")
        if subset is not None:
            for sample in data_samples:
                scores = sample["pred_score"]
                kept = scores.new_full(scores.shape, -1.0)
                kept[list(subset)] = scores[list(subset)]
                sample["pred_score"] = kept
        super().process(data_batch, data_samples)
