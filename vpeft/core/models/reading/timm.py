"""timm 1.0: ``forward_intermediates`` gives the maps, ``dynamic_img_size`` resizes position tables as it runs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vpeft.core.models.reading.reader import Level, Reader, Reading, split_tokens
from vpeft.errors import UserError

_ANY_SIZE = "dynamic_img_size"


class TimmReader(Reader):
    """A network of timm."""

    size_option = "img_size"

    @classmethod
    def options(cls, kind: type[nn.Module]) -> dict[str, Any]:
        return {"num_classes": 0, **({_ANY_SIZE: True} if _takes_any_size(kind) else {})}

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        if not hasattr(network, "forward_intermediates"):
            raise UserError(f"timm's {type(network).__name__} gives no maps (no forward_intermediates).")
        self.levels = [
            Level(info["num_chs"], info["reduction"], info.get("num_chs_norm", info["num_chs"]))
            for info in network.feature_info
        ]
        self.normed = self.plain or self._has_last_channels
        stated = network.pretrained_cfg or {}
        if stated.get("fixed_input_size") and not getattr(network, _ANY_SIZE, _takes_any_size(type(network))):
            size = getattr(getattr(network, "patch_embed", None), "img_size", None)
            self.size = tuple(size or stated["input_size"][1:])

    @property
    def _has_last_channels(self) -> bool:
        return getattr(self.network, "output_fmt", None) == "NHWC"

    def drop_pooling(self) -> None:
        self.network.prune_intermediate_layers([len(self.levels) - 1], prune_norm=False, prune_head=True)

    def read(self, images: Tensor, levels: Sequence[int]) -> Reading:
        last = len(self.levels) - 1
        out, maps = self.network.forward_intermediates(images, indices=sorted({*levels, last}))
        raw = maps[-1]
        prefix, final = raw.new_zeros(len(raw), 0, raw.shape[1]), raw
        if out.dim() == 4:
            final = out.permute(0, 3, 1, 2) if self._has_last_channels else out
        elif self.plain:  # the tokens of stages may stand in another order
            prefix, final = split_tokens(out, *raw.shape[2:])
        return Reading(maps if last in levels else maps[:-1], prefix, final)

    def pooled(self, images: Tensor) -> Tensor:
        return self.network.forward_head(self.network.forward_features(images), pre_logits=True)


def _takes_any_size(kind: type[nn.Module]) -> bool:
    return _ANY_SIZE in inspect.signature(kind).parameters


READERS = {nn.Module: TimmReader}
