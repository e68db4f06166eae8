"""torchvision 0.28: models of classification, and its own resizing of position tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from vpeft.core.backbones.libraries.library import Library
from vpeft.core.backbones.libraries.preprocessing import Preprocessing


class TorchVision(Library):
    def names(self) -> list[str]:
        return torchvision.models.list_models(module=torchvision.models)

    def build(self, name: str, pretrained: bool, **options: Any) -> nn.Module:
        self.need(name, self.names(), "torchvision.models.list_models()")
        return torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **options)

    def converted(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
        if not isinstance(model, VisionTransformer) or "encoder.pos_embedding" not in state:
            return None
        return dict(interpolate_embeddings(model.image_size, model.patch_size, dict(state)))

    def preprocessing(self, name: str, folder: Path | None = None) -> Preprocessing | None:
        if name not in self.names():
            return None
        stated = torchvision.models.get_model_weights(name).DEFAULT.transforms()  # those that are fetched
        mean, std = (tuple(round(255 * value, 6) for value in values) for values in (stated.mean, stated.std))
        (size,), (edge,) = stated.crop_size, stated.resize_size
        return Preprocessing(mean, std, size, stated.interpolation.value, size / edge)


LIBRARY = TorchVision()
