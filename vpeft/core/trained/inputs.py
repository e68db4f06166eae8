"""The images and clips at which trained runs are looked at: of their test set, or files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import Dataset

from vpeft.core.trained.reading import test_reader
from vpeft.core.trained.run import Run
from vpeft.errors import UserError
from vpeft.files import need_file


@dataclass
class Look:
    """One sample, read as a run's test samples are.

    Attributes:
        name: What it is called in a picture.
        batch: A batch of this sample alone, as ``model.test_step`` takes it.
        boxes: Boxes ``(N, 4)`` in the image's pixels and their classes ``(N,)``, where the data set states them.
    """

    name: str
    batch: dict[str, Any] = field(repr=False)
    boxes: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)


def dataset_looks(run: Run, indices: Sequence[int] | None = None, count: int = 4, seed: int = 0) -> list[Look]:
    """Samples of a run's test set.

    Args:
        run: The run.
        indices: Places in the test set; when None, ``count`` random ones.
        count: How many.
        seed: Seed of the choice; the same for runs of one data set.

    Raises:
        UserError: A place does not exist.
    """
    data = run.dataset()
    chosen = [int(i) for i in (choose_samples(len(data), count, seed) if indices is None else indices)]
    for i in chosen:
        if not 0 <= i < len(data):
            raise UserError(f"{run.folder}: no test sample {i}: the test set has the samples 0 to {len(data) - 1}.")
    return [Look(f"sample {i}", pseudo_collate([data[i]]), _boxes(data, i)) for i in chosen]


def _boxes(data: Dataset, index: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What a data set of mmdet says of a sample, whether or not its test pipeline reads it."""
    info = data.get_data_info(index) if hasattr(data, "get_data_info") else {}
    if "instances" not in info:
        return None
    kept = [one for one in info["instances"] if not one.get("ignore_flag")]
    boxes = np.asarray([one["bbox"] for one in kept], np.float32).reshape(-1, 4)
    return boxes, np.asarray([one["bbox_label"] for one in kept], np.int64)


def file_looks(run: Run, paths: Sequence[str | os.PathLike[str]]) -> list[Look]:
    """Image or video files, through the pipeline of a run's test set, annotations left out.

    Raises:
        UserError: A file is missing.
    """
    for path in paths:
        need_file(path, "image", "give image files, or leave --images out to see test samples")
    init_default_scope(run.cfg.get("default_scope", "mmengine"))
    pipeline = Compose(test_reader(run.cfg)[0])
    return [Look(Path(path).name, pseudo_collate([pipeline(file_sample(str(path)))])) for path in paths]


def file_sample(path: str) -> dict[str, Any]:
    """What pipelines of images and of videos look for."""
    return {
        "img_path": path,
        "img_id": 0,
        "filename": path,
        "start_index": 0,
        "modality": "RGB",
        "label": 0,
        "reduce_zero_label": False,
        "seg_fields": [],
    }


def choose_samples(length: int, count: int | None, seed: int = 0) -> np.ndarray:
    """Places of ``count`` random samples among ``length``, sorted; all of them when None."""
    if count is None or count >= length:
        return np.arange(length)
    if count < 1:
        raise UserError(f"{count} samples were asked for: give at least 1.")
    return np.sort(np.random.default_rng(seed).permutation(length)[:count])
