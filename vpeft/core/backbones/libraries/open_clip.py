"""open_clip 3.3: the vision tower of a model; its files hold it below ``visual.``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
from open_clip.convert import convert_state_dict
from open_clip.model import _build_vision_tower, resize_pos_embed, resize_text_pos_embed
from torch import Tensor, nn

from vpeft.core.backbones.libraries.library import Library
from vpeft.core.backbones.libraries.preprocessing import Preprocessing, of_open_clip
from vpeft.errors import UserError

_TOWER = "visual."


class OpenClip(Library):
    heads = ()
    optional = rf"{Library.optional}|proj|(attn_pool|ln_post)\..+"
    config = "open_clip_config.json"
    mark = "model_cfg"

    def names(self) -> list[str]:
        return open_clip.list_models()

    def build(self, name: str, pretrained: bool, **options: Any) -> nn.Module:
        name, _, tag = name.partition("/")
        self.need(name, self.names(), "open_clip.list_models()")
        config = open_clip.get_model_config(name)
        if tag or pretrained:
            self._need_tag(name, tag, config)
        if not pretrained:
            return _tower(config, options)
        vision = {**config["vision_cfg"], **options}
        return open_clip.create_model(name, tag, vision_cfg=vision, pretrained_text=False).visual

    def build_from(self, folder: Path, **options: Any) -> nn.Module:
        return _tower(self.stated_in(folder)[self.mark], options)

    def _need_tag(self, name: str, tag: str, config: Mapping[str, Any]) -> None:
        tags = open_clip.list_pretrained_tags_by_model(name)
        if tag not in tags:
            known = ", ".join(f"{self.prefix}/{name}/{one}" for one in tags) or "it has none: weights=FILE"
            raise UserError(f"say which weights of {name} are meant: {known}.")
        quick = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
        if quick != config.get("quick_gelu", False):
            raise UserError(
                f"the weights {tag!r} were trained {'with' if quick else 'without'} QuickGELU and {name} computes "
                f"{'without' if quick else 'with'}: {name}-quickgelu is the other one."
            )

    def preprocessing(self, name: str, folder: Path | None = None) -> Preprocessing | None:
        if folder is not None and (stated := self.stated_in(folder)):
            return of_open_clip(stated.get("preprocess_cfg") or {}, _side(stated[self.mark]))
        name, _, tag = name.partition("/")
        if name not in self.names():
            return None
        tags, side = (
            [tag] if tag else open_clip.list_pretrained_tags_by_model(name),
            _side(open_clip.get_model_config(name)),
        )
        found = {one: of_open_clip(open_clip.get_pretrained_cfg(name, one), side) for one in tags}
        if len({(one.mean, one.std) for one in found.values() if one}) > 1:
            some = ", ".join(f"{self.prefix}/{name}/{one}" for one in list(found)[:6])
            raise UserError(
                f"weights of open_clip's {name} were trained with different means: say which they are of, as {some}, "
                "or state --normalisation clip, inception or imagenet."
            )
        return next(iter(found.values()), None)

    def converted(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
        if hasattr(model, "visual"):
            state = convert_state_dict(model, state)
            resize_pos_embed(state, model)
            resize_text_pos_embed(state, model)
            return state
        tower = {key: tensor for key, tensor in state.items() if key.startswith(_TOWER)}
        tower = tower or {_TOWER + key: tensor for key, tensor in state.items()}
        resize_pos_embed(tower, SimpleNamespace(visual=model))
        return {key.removeprefix(_TOWER): tensor for key, tensor in tower.items()}


def _side(config: Mapping[str, Any]) -> int:
    """Side of the square that a vision tower sees."""
    size = config["vision_cfg"].get("image_size", 224)
    return size if isinstance(size, int) else max(size)


def _tower(config: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    vision = {**config["vision_cfg"], "timm_model_pretrained": False, **options}
    return _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))


LIBRARY = OpenClip()
