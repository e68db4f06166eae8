"""A network of a library that was adapted in Python, asked as OpenMMLab's classifiers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn

from vpeft.errors import UserError


class NetworkClassifier(BaseModel):
    """A network that gives class scores ``(B, classes)`` for images, and what is done to these before.

    Args:
        network: The network.
        preprocessor: mean, std and ``to_rgb`` of mmpretrain's data preprocessor.
    """

    def __init__(self, network: nn.Module, preprocessor: dict[str, Any]) -> None:
        super().__init__({"type": "mmpretrain.ClsDataPreprocessor", **preprocessor})
        self.network = network

    def forward(self, inputs: Tensor, data_samples: Sequence[Any] | None = None, mode: str = "tensor") -> Any:
        """Scores; with ``mode="predict"`` the data samples with the classes' probabilities."""
        scores = self.network(inputs)
        if not isinstance(scores, Tensor) or scores.dim() != 2:
            raise UserError(
                f"{type(self.network).__name__} gives no class scores (B, classes): it has no classifier inside, so it "
                "predicts nothing by itself."
            )
        if mode == "tensor":
            return scores
        for sample, one in zip(data_samples, scores.softmax(1), strict=True):
            sample.set_pred_score(one).set_pred_label(one.argmax())
        return data_samples
