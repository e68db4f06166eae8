"""How many classes a model's heads and its data sets have, and which labels the data hold, in every family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from torch import nn
from torch.utils.data import Dataset

from vpeft.core.families.samples import labels_of_info, name_of_info
from vpeft.errors import UserError

#: Parts of a model whose ``num_classes`` is not that of the data: mmdet's proposals know object and background alone,
#: its semantic branches count surfaces ("stuff"), and preprocessing counts for mixing alone.
OTHER_CLASSES = ("rpn_head", "semantic_head", "data_preprocessor")


def head_counts(model: nn.Module, backbones: Iterable[nn.Module] = ()) -> dict[str, int]:
    """The number of classes of everything in a model that predicts classes, by name; ``backbones`` are left out.

    Empty for a model that compares images with texts: its classes are whatever it is asked for.
    """
    if hasattr(model, "language_model"):
        return {}
    inside = {id(module) for backbone in backbones for module in backbone.modules()}
    return {
        name: module.num_classes
        for name, module in model.named_modules()
        if name  # models repeat the number of their head
        and type(getattr(module, "num_classes", None)) is int
        and id(module) not in inside
        and not set(OTHER_CLASSES) & set(name.split("."))
    }


def parts(dataset: Dataset) -> Iterator[Dataset]:
    """The data sets that a data set is put together of: itself, or what wrappers hold, of whatever depth."""
    if isinstance(dataset, BaseDataset):
        yield dataset
    elif hasattr(dataset, "datasets"):
        for one in dataset.datasets:
            yield from parts(one)
    elif hasattr(dataset, "dataset"):
        yield from parts(dataset.dataset)
    else:
        yield dataset


def named_classes(dataset: Dataset) -> tuple[str, ...]:
    """Names of a data set's classes; empty where it states none.

    Raises:
        UserError: It states one text instead of several names.
    """
    names = _metainfo(dataset).get("classes") or ()
    if isinstance(names, str):
        raise UserError(
            f"{type(dataset).__name__}: metainfo.classes is the text {names!r} instead of a tuple of names: write "
            f"({names!r},) for a single class, or give an existing file."
        )
    return tuple(map(str, names))


def class_counts(dataset: Dataset) -> set[int]:
    """The numbers of classes that a head of this data may have; empty where the data set states none.

    Of a panoptic data set a head may predict all classes, or the things among them.
    """
    names, things = named_classes(dataset), _metainfo(dataset).get("thing_classes")
    number = getattr(dataset, "num_classes", None)
    if names:
        return {len(names), *([len(things)] if things else [])}
    return {number} if type(number) is int else set()


def _metainfo(dataset: Dataset) -> Mapping[str, Any]:
    return getattr(dataset, "metainfo", None) or {}


def labels_of(dataset: Dataset) -> Iterator[tuple[str, Sequence[Any]]]:
    """A name and the labels of every sample of one data set that states them without reading the sample itself."""
    if not hasattr(dataset, "get_data_info"):
        return
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        labels = labels_of_info(info)
        if labels is None:
            return
        if getattr(dataset, "multi_class", False):  # mmaction gives several classes as zeros and ones
            labels = np.flatnonzero(labels)
        labels = labels.tolist() if hasattr(labels, "tolist") else labels
        yield name_of_info(info, index), labels if isinstance(labels, (list, tuple)) else [labels]
