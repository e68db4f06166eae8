"""timm 1.0: ``create_model``, and the filter that each file of models keeps for weights of other names."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import timm
from timm.models import FeatureListNet
from torch import Tensor, nn

from vpeft.core.backbones.libraries.library import Library
from vpeft.core.backbones.libraries.preprocessing import Preprocessing, of_timm
from vpeft.errors import UserError


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
        if isinstance(model, FeatureListNet):  # what is a list in the network stands by itself here
            own = model.state_dict()
            flat = {key: key.replace(".", "_", 1) for key in state}
            return {new if new in own else key: state[key] for key, new in flat.items()}
        modules = (sys.modules.get(cls.__module__) for cls in type(model).__mro__ if cls.__module__.startswith("timm."))
        convert = next((vars(module).get("checkpoint_filter_fn") for module in modules), None)
        if convert is None:
            return None
        # DeiT III's own files: names without another meaning in the rest.
        extra = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
        return convert(dict(state), model, **extra)

    def preprocessing(self, name: str, folder: Path | None = None) -> Preprocessing | None:
        stated = self.stated_in(folder).get("pretrained_cfg") if folder else None
        if stated:
            return of_timm(stated)
        if not name or ":" in name:
            return None
        tags = timm.list_pretrained(f"{name}.*") if "." not in name else [name]
        found = {tag: of_timm(timm.models.get_pretrained_cfg(tag).to_dict()) for tag in tags}
        if len({(one.mean, one.std) for one in found.values() if one}) > 1:
            some = ", ".join(f"{self.prefix}/{tag}" for tag in list(found)[:6])
            raise UserError(
                f"weights of timm's {name} were trained with different means: say which they are of, as {some}, or "
                "state "
                "--normalisation imagenet, inception or clip."
            )
        own = timm.models.get_pretrained_cfg(name)
        return of_timm(own.to_dict()) if own else None

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
