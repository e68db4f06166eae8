"""Frozen features of a run, computed once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.utils import _pytree
from torch.utils.data import Dataset

from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.training.frozen_features import FrozenFeatures
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.backbones.probing.at_rest import random_numbers_as_before
from vpeft.core.store import Store, byte_count
from vpeft.registry import HOOKS

#: Images of the training data that are read several times, to see whether they come out the same.
LOOKED_AT, TIMES = 3, 4


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Keeps what the frozen part of the backbone makes of every image, and does not make it again.

    ``feature_cache=dict(limit="20GB")`` in a config adds this hook. Losses and weights of a run are bit-equal with and
    without it; where that cannot be (random augmentation, DropPath in the frozen part, a trained first block, a machine
    on which numbers hang on what else is in a batch), nothing is kept, and the log says why.

    Args:
        limit: Bytes of the store, or a size such as ``"20GB"``. What does not fit is computed anew.
        folder: Where the features are kept; several runs, seeds and methods may share a folder. Default: ``features``
            in the run's own folder.
    """

    priority = "LOW"  # behind what changes the model, ahead of PEFTHook's report

    def __init__(self, limit: int | str = "20GB", folder: str | os.PathLike[str] | None = None) -> None:
        byte_count(limit)
        self.limit, self.folder = limit, folder
        self.features: list[FrozenFeatures] = []

    def before_train(self, runner: Runner) -> None:
        """Begin to keep."""
        if not is_same_again(runner.train_dataloader.dataset):
            runner.logger.info(
                "frozen features are computed anew in every epoch: training images come out otherwise each time "
                "(random augmentation)."
            )
            return
        folder = Path(self.folder or Path(runner.work_dir) / "features")
        store = Store(folder, self.limit)
        for adaptation in find_adaptations(unwrap(runner.model)).values():
            one = FrozenFeatures(adaptation, store, runner.logger.info)
            one.start()
            self.features.append(one)

    def after_train(self, runner: Runner) -> None:
        """Stop, and say how much was saved."""
        for one in self.features:
            one.stop()
            if one.used:
                runner.logger.info(f"frozen features: {one.used:,} images were spared {one.depth} blocks.")
        if self.features:
            self.features[0].store.close()


def is_same_again(data: Dataset) -> bool:
    """Whether the first images of a data set come out the same each time that they are read."""
    with random_numbers_as_before():
        for index in range(min(LOOKED_AT, len(data))):
            first, *others = (_tensors(data[index]) for _ in range(TIMES))
            for other in others:
                if len(other) != len(first) or not all(map(torch.equal, first, other)):
                    return False
    return True


def _tensors(sample: Any) -> list[Tensor]:
    inputs = sample["inputs"] if isinstance(sample, dict) and "inputs" in sample else sample
    return [leaf for leaf in _pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
