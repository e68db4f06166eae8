"""mmpretrain 1.3: the backbones of the models in its index."""

from __future__ import annotations

from typing import Any

import mmpretrain
from mmpretrain.apis.model import ModelHub
from torch import nn

from vpeft.core.backbones.libraries.library import Library


class MMPretrain(Library):
    def names(self) -> list[str]:
        return mmpretrain.list_models()

    def build(self, name: str, pretrained: bool, **options: Any) -> nn.Module:
        self.need(name, self.names(), "mmpretrain.list_models()")
        return mmpretrain.get_model(name, pretrained=False, **options).backbone

    def address(self, name: str) -> str | None:
        self.need(name, self.names(), "mmpretrain.list_models()")
        return ModelHub.get(name).weights


LIBRARY = MMPretrain()
