"""timm 1.0: ``create_model``, and the filter that each file of models keeps for weights of other names."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from vpeft.core.backbones.libraries.library import Library


class Timm(Library):
    config = "config.json"
    optional = rf"{Library.optional}|attn_pool\..+"
    mark = "architecture"

    def names(self) -> list[str]:
        return timm.list_models()

    def build(self, name: str, pretrained: bool, **options: Any) -> nn.Module:
        if ":" not in name:  # hf-hub:... is fetched
            self.need(name.partition(".")[0], self.names(), "timm.list_models()")
        return timm.create_model(name, pretrained=pretrained, **options)

    def build_from(self, folder: Path, **options: Any) -> nn.Module:
        config = self.stated_in(folder)
        stated = {key: config[key] for key in ("num_classes", "global_pool") if key in config}
        return self.build(config["architecture"], False, **{**stated, **config.get("model_args", {}), **options})

    def converted(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
        modules = (sys.modules.get(cls.__module__) for cls in type(model).__mro__ if cls.__module__.startswith("timm."))
        convert = next((vars(module).get("checkpoint_filter_fn") for module in modules), None)
        if convert is None:
            return None
        # DeiT III's own files: names without another meaning in the rest.
        extra = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
        return convert(dict(state), model, **extra)

    def heads_of(self, model: nn.Module) -> tuple[str, ...]:
        stated = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
        return ((stated,) if isinstance(stated, str) else tuple(stated)) if stated else self.heads

    def named(self, word: str, classes: Collection[str]) -> list[str]:
        files = {name.split(".")[-2] for name in classes if name.startswith("timm.")}
        names = timm.list_models(exclude_filters="test_*")
        fits = [name for name in names if word in name.split("_") and timm.models.is_model_in_modules(name, files)]
        # The architecture stands first, then the weights: what is called by the word itself, then plain ViTs.
        fits.sort(key=lambda name: (not name.startswith(word), not name.startswith("vit_"), name))
        return [f"{self.prefix}/{name}" for name in fits]


LIBRARY = Timm()
