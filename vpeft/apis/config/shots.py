"""Training sets of k images a class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

import numpy as np
from mmengine import Config
from mmengine.registry import DATASETS, init_default_scope

from vpeft.errors import UserError


def few_shot(cfg: Config, shots: int, seed: int = 0) -> list[int]:
    """Which images to train on: ``shots`` of each class instead of all.

    Which ones is drawn once by ``seed``, so that all methods and all seeds of a run train on the same images, and the
    images of fewer shots are among those of more. Test and validation stay whole.

    Args:
        cfg: A config whose training set is one of mmengine's ``BaseDataset`` with ``gt_label``.
        shots: Images of each class, at least 1.
        seed: Seed of the draw.

    Returns:
        Indices of the training set, sorted.

    Raises:
        UserError: A class has fewer images, or samples have no class.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    dataset = cfg.train_dataloader.dataset
    labels = _labels(json.dumps({**dataset.to_dict(), "pipeline": []}, sort_keys=True))
    return choose_shots(labels, shots, seed)


@cache
def _labels(dataset: str) -> tuple[int, ...]:
    data = DATASETS.build(json.loads(dataset))
    labels = [data.get_data_info(i).get("gt_label") for i in range(len(data))]
    if any(not isinstance(label, (int, np.integer)) for label in labels):
        raise UserError(f"shots: the samples of {type(data).__name__} have no single class: leave shots out.")
    return tuple(int(label) for label in labels)


def choose_shots(labels: Sequence[int], shots: int, seed: int = 0) -> list[int]:
    """Indices of ``shots`` samples of each class, sorted.

    Raises:
        UserError: ``shots`` is no whole number of at least 1, or a class has fewer samples.
    """
    if not isinstance(shots, int) or isinstance(shots, bool) or shots < 1:
        raise UserError(f"shots={shots!r} must be a whole number of at least 1, or null for all images.")
    chosen: list[int] = []
    for label in sorted(set(labels)):
        own = np.flatnonzero(np.asarray(labels) == label)
        if len(own) < shots:
            raise UserError(f"shots={shots}: class {label} has {len(own)} images: ask for fewer.")
        order = np.random.default_rng([seed, label]).permutation(own)
        chosen += order[:shots].tolist()
    return sorted(chosen)
