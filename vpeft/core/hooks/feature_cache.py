"""Frozen features of a run, computed once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils.data import Dataset

from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.training.frozen.frozen_features import FrozenFeatures
from vpeft.core.adaptation.training.frozen.spared_images import SparedImages, reads_without_chance
from vpeft.core.adaptation.training.views import Views
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.backbones.probing.at_rest import random_numbers_as_before
from vpeft.core.store import Store, byte_count
from vpeft.errors import UserError
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
            None keeps nothing.
        folder: Where the features are kept; several runs, seeds and methods may share a folder. Default: ``features``
            in the run's own folder.
        views: With so many fixed augmented views of each image the run is another one than with views without number
            (:class:`.Views`), whether they are kept or not.

    Raises:
        UserError: A setting cannot be.
    """

    priority = "LOW"  # behind what changes the model, ahead of PEFTHook's report

    def __init__(
        self,
        limit: int | str | None = "20GB",
        folder: str | os.PathLike[str] | None = None,
        views: int | None = None,
    ) -> None:
        if limit is not None:
            byte_count(limit)
        if views is not None and (not isinstance(views, int) or isinstance(views, bool) or views < 1):
            raise UserError(f"feature_cache.views={views!r}: give the number of views of each image, 1 or more.")
        self.limit, self.folder, self.views = limit, folder, views
        self.features: list[FrozenFeatures] = []
        self.spared: SparedImages | None = None
        self._loop: Any = None

    def before_train(self, runner: Runner) -> None:
        """Begin to keep."""
        self._loop = runner.train_loop
        if self.views is not None:
            self._fix_views(runner)
        if self.limit is None:
            return
        if runner.cfg.get("compile"):  # the bits of an image, by which it is found, are no part of a program
            runner.logger.info("frozen features are computed anew in every epoch: the step is compiled (compile=).")
            return
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
        self._spare_images(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the views."""
        if isinstance(views := runner.train_dataloader.dataset, Views):
            views.begin(runner.epoch)

    def after_train(self, runner: Runner) -> None:
        """Say how much was saved."""
        for one in self.features:
            if one.used:
                runner.logger.info(f"frozen features: {one.used:,} images were spared {one.depth} blocks.")
        self.stop()

    def stop(self) -> None:
        """Let everything be as it was, also where training ended by an error."""
        if self.spared is not None:
            self._loop.dataloader = self.spared.stop()
        if self._loop is not None and isinstance(views := self._loop.dataloader.dataset, Views):
            object.__setattr__(self._loop.dataloader, "dataset", views.data)
        for one in self.features:
            one.stop()
        if self.features:
            self.features[0].store.close()
        self.features, self.spared = [], None

    def _fix_views(self, runner: Runner) -> None:
        loader = runner.train_dataloader
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise UserError(
                f"feature_cache.views={self.views}: which view is seen goes by the epoch, and this run is trained by "
                "iterations (train_cfg): leave it out, or train by epochs."
            )
        # DataLoader refuses it on the usual way; who iterates it asks for it anew each time
        object.__setattr__(loader, "dataset", Views(loader.dataset, self.views, runner.seed or 0))

    def _spare_images(self, runner: Runner) -> None:
        loader, preprocessor = runner.train_dataloader, getattr(unwrap(runner.model), "data_preprocessor", None)
        if not isinstance(runner.train_loop, EpochBasedTrainLoop) or not isinstance(preprocessor, nn.Module):
            return
        if len(self.features) != 1 or getattr(loader, "batch_sampler", None) is None:
            return
        if reads_without_chance(loader.dataset, LOOKED_AT):
            self.spared = SparedImages(loader, self.features[0], preprocessor, runner.logger.info)
            self._loop.dataloader = self.spared


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
