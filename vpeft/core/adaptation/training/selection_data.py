"""What a method may look at before training: the training images, once, through the frozen model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine import Config
from mmengine.dataset import BaseDataset, Compose, ConcatDataset, RepeatDataset, pseudo_collate
from mmengine.registry import DATASETS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from vpeft.core.contract.training import TrainingData
from vpeft.core.families.samples import label_of
from vpeft.core.models.outputs import class_scores, pooled_features
from vpeft.errors import UserError


def training_data(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> TrainingData:
    """The data of a classifier, or of a bare backbone."""
    found = [getattr(getattr(model, "data_preprocessor", None), name, None) for name in ("mean", "std")]
    colours = tuple(found) if all(isinstance(value, Tensor) and value.numel() == 3 for value in found) else None
    return TrainingData(batches, lambda x: pooled_features(model, x), lambda x: class_scores(model, x), colours)


def selection_batches(cfg: Config, model: nn.Module, dataset: Dataset | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Preprocessed images and labels of the training set, once, in a fixed random order, read as in validation.

    Args:
        cfg: The run's config.
        model: The model, whose preprocessor prepares the images.
        dataset: The training set, where it is built already.

    Raises:
        UserError: Nothing says how images are read without augmentation, or a sample has no class, or several.
    """
    reading = _reading(cfg)
    data = DATASETS.build(cfg.train_dataloader.dataset) if dataset is None else dataset
    data = read_as(data, Compose(reading))
    order = RandomSampler(data, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(data, cfg.train_dataloader.batch_size, sampler=order, collate_fn=pseudo_collate)
    for batch in loader:
        batch = model.data_preprocessor(batch, False)
        labels = [label_of(sample) for sample in batch["data_samples"]]
        if None in labels:
            info = batch["data_samples"][labels.index(None)].metainfo
            path = info.get("img_path") or info.get("filename") or "one of them"
            raise UserError(
                f"a method selects by class, and the training samples of this config ({path}) have no class label or "
                "several: take another method."
            )
        yield batch["inputs"], torch.tensor(labels, device=batch["inputs"].device)


def _reading(cfg: Config) -> list[Any]:
    """The steps by which validation or testing reads a sample."""
    loader = cfg.get("val_dataloader") or cfg.get("test_dataloader")
    node = loader.dataset if loader else {}
    while "pipeline" not in node and ("dataset" in node or node.get("datasets")):
        node = node["dataset"] if "dataset" in node else node["datasets"][0]
    if "pipeline" not in node:
        raise UserError(
            "a method selects from the training data, read as in validation: the config needs a val_dataloader or "
            "test_dataloader whose dataset has a pipeline."
        )
    return node["pipeline"]


def read_as(dataset: Dataset, pipeline: Compose, once: bool = True) -> Dataset:
    """A data set, whatever wrappers it is in, read by ``pipeline``; ``dataset`` itself stays as it is.

    What mixes several samples into one gives way to what it holds.

    Args:
        dataset: The data set.
        pipeline: How a sample is read.
        once: What repeats a data set gives way to it too, where no other wrapper counts on its length.

    Raises:
        UserError: A part has no pipeline that could be replaced.
    """
    plain = isinstance(dataset, BaseDataset)
    mixes = not plain and hasattr(dataset, "dataset") and hasattr(dataset, "pipeline")
    if mixes or (once and isinstance(dataset, RepeatDataset)):
        return read_as(dataset.dataset, pipeline, once)
    copied = copy.copy(dataset)
    if plain:
        copied.pipeline = pipeline
    elif hasattr(dataset, "datasets"):
        copied.datasets = [read_as(one, pipeline, once) for one in dataset.datasets]
        copied.cumulative_sizes = ConcatDataset.cumsum(copied.datasets)
    elif hasattr(dataset, "dataset"):
        copied.dataset = read_as(dataset.dataset, pipeline, once=False)
    elif hasattr(dataset, "pipeline"):
        copied.pipeline = pipeline
    else:
        raise UserError(
            f"a method selects from the training data, read without augmentation, and {type(dataset).__name__} has no "
            "pipeline that could be replaced: make it one of mmengine's BaseDataset."
        )
    return copied
