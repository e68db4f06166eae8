"""What a method may look at before training: the training images, once, through the frozen model."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from vpeft.core.contract.training import TrainingData
from vpeft.core.models.outputs import class_scores, pooled_features


def training_data(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> TrainingData:
    """The data of a classifier, or of a bare backbone."""
    return TrainingData(batches, lambda x: pooled_features(model, x), lambda x: class_scores(model, x))
