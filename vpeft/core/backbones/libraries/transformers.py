"""transformers 4.57: models by the hub's name, by a folder with config.json, or by their type."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel, PretrainedConfig
from transformers.image_processing_utils import ImageProcessingMixin

from vpeft.core.backbones.libraries.library import Library, is_installed, library
from vpeft.core.backbones.libraries.official import renamed
from vpeft.core.backbones.libraries.preprocessing import Preprocessing, of_transformers
from vpeft.errors import UserError
from vpeft.files import read_json

#: What a folder of transformers says of images.
PROCESSOR = "preprocessor_config.json"

#: Settings of a config that do not change what the same tensors compute in eval mode.
_NO_MATTER = re.compile(
    r"architectures|.*dtype|(id2)?label(2id)?|num_labels|image_size|initializer_.*|layerscale_value|problem_type|"
    r"return_dict|transformers_version|.*_name.*|auto_map|.*drop.*|.*mask_.*|output_.*|out_.*|semantic_.*|pooler_.*|"
    r"use_cache|.*attn_implementation.*|model_type|stage_names|reshape_hidden_states|.*_token_id|down_ops|"
    r"encoder_stride|.*(decoder|auxiliary|loss).*"
)


class Transformers(Library):
    by_name = False
    config = "config.json"
    mark = "model_type"
    converter = "table of the authors' names"
    #: Output norms and the norm of a mean, which start as no norm, and what masks in pretraining.
    kept = r"(.+\.)?(hidden_states_norms\..+|pooler\.layernorm\..+|mask_token)"
    optional = rf"{Library.optional}|(hidden_states_norms|neck)\..+"

    def build(self, name: str, pretrained: bool, **options: Any) -> nn.Module:
        if "/" not in name:  # a type of models, as "dinov2"
            self.need(name, CONFIG_MAPPING.keys(), "transformers.CONFIG_MAPPING")
            if pretrained:
                raise UserError(f"{name!r} is a type of models, not one with weights: weights=FILE, or weights=False.")
            fields = AutoConfig.for_model(name).to_dict()
            stated = {key: options.pop(key) for key in list(options) if key in fields}
            return _empty(AutoConfig.for_model(name, **stated), options)
        config, options = _config(name, **options)
        if not pretrained:
            return _empty(config, options)
        config = _of_images(config)
        model, info = AutoModel.from_pretrained(
            name, config=config, trust_remote_code=False, output_loading_info=True, **_options(config, options)
        )
        if lacking := sorted(info["missing_keys"]):
            raise UserError(f"its weights lack {', '.join(lacking[:3])} ({len(lacking)} in all) of this model.")
        return model

    def build_from(self, folder: Path, **options: Any) -> nn.Module:
        config, options = _config(str(folder.resolve()), **options)
        return _empty(config, options)

    def preprocessing(self, name: str, folder: Path | None = None) -> Preprocessing | None:
        if folder is not None:
            file = folder / PROCESSOR
            return of_transformers(read_json(file, "preprocessing")) if file.is_file() else None
        if "/" not in name:
            return None
        try:
            return of_transformers(ImageProcessingMixin.get_image_processor_dict(name)[0])
        except (OSError, ValueError):  # no such file on the hub, or no network
            return None

    def converted(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
        base = getattr(model, "base_model_prefix", "")
        prefix = f"{base}." if base and hasattr(model, base) else ""
        return renamed(state, getattr(getattr(model, "config", None), "model_type", ""), prefix, model.state_dict())

    def heads_of(self, model: nn.Module) -> tuple[str, ...]:
        base = getattr(model, "base_model_prefix", "")
        if not base or not hasattr(model, base):
            return self.heads
        return tuple(name for name, _ in model.named_children() if name != base)

    def elsewhere(self, model: nn.Module, classes: Collection[str]) -> list[str]:
        # The first word of a type names the weights, as in "dinov2_with_registers"; timm's names have it too.
        word = getattr(_of_images(getattr(model, "config", None)), "model_type", "").split("_")[0]
        return library("timm").named(word, classes) if word and is_installed("timm") else []

    def differences(self, folder: Path, model: nn.Module) -> list[str]:
        own, stated = getattr(model, "config", None), self.stated_in(folder)
        parts = [stated, *(part for part in stated.values() if isinstance(part, dict))]
        theirs = next((part for part in parts if part.get("model_type") == getattr(own, "model_type", "")), None)
        if theirs is None:
            return []
        here = own.to_dict()
        return [
            f"{key}={value!r} (the model's is {here.get(key)!r})"
            for key, value in type(own).from_dict(theirs).to_dict().items()
            if here.get(key) != value and not _NO_MATTER.fullmatch(key)
        ]


def _config(name: str, **options: Any) -> tuple[PretrainedConfig, dict[str, Any]]:
    """A model's config with some of its fields set anew, and the other options; code beside it is not run."""
    if options.get("trust_remote_code"):
        raise UserError(
            "trust_remote_code=True would run code that lies beside the weights: no host knows such models."
        )
    try:
        return AutoConfig.from_pretrained(name, return_unused_kwargs=True, **{**options, "trust_remote_code": False})
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise UserError(
            "its config asks for code that lies beside the weights (auto_map), which is not run."
        ) from error


def _empty(config: PretrainedConfig, options: Mapping[str, Any]) -> nn.Module:
    config = _of_images(config)
    return AutoModel.from_config(config, trust_remote_code=False, **_options(config, options))


def _of_images(config: PretrainedConfig | None) -> PretrainedConfig | None:
    """Of a model of images and text the part that sees."""
    return getattr(config, "vision_config", config)


def _options(config: PretrainedConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """Without the pooler, which files of other heads lack: it would be random."""
    plain = MODEL_MAPPING[type(config)]
    has_pooler = "add_pooling_layer" in inspect.signature(plain.__init__).parameters
    return {**({"add_pooling_layer": False} if has_pooler else {}), **options}


LIBRARY = Transformers()
