"""torchvision 0.28: models of classification, and its own resizing of position tables."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from vpeft.core.backbones.libraries.library import Library


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


LIBRARY = TorchVision()
