"""What a method may look at before training: the training images, once, through the frozen model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from vpeft.core.contract.training import TrainingData
from vpeft.core.models.outputs import class_scores, pooled_features
from vpeft.errors import UserError


def training_data(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> TrainingData:
    """The data of a classifier, or of a bare backbone."""
    return TrainingData(batches, lambda x: pooled_features(model, x), lambda x: class_scores(model, x))


def selection_batches(cfg: Config, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Preprocessed images and labels of the training set, once, in a fixed random order, read as in validation."""
    dataset = copy.deepcopy(cfg.train_dataloader.dataset)
    inner = dataset
    while "dataset" in inner:
        inner = inner.dataset
    reading = (cfg.get("val_dataloader") or cfg.test_dataloader).dataset
    while "dataset" in reading:
        reading = reading.dataset
    inner.pipeline = reading.pipeline
    data = DATASETS.build(dataset)
    order = RandomSampler(data, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(data, cfg.train_dataloader.batch_size, sampler=order, collate_fn=pseudo_collate)
    for batch in loader:
        batch = model.data_preprocessor(batch, False)
        labels = [class_label(sample) for sample in batch["data_samples"]]
        if any(label is None for label in labels):
            raise UserError("a method selects by class, and the training samples of this config have no class labels.")
        yield batch["inputs"], torch.cat(labels)


def class_label(sample: Any) -> Tensor | None:
    """The label of a training sample, in either of the places where it may be."""
    if hasattr(sample, "gt_label"):
        return sample.gt_label
    return getattr(getattr(sample, "gt_labels", None), "item", None)
