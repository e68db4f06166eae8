"""transformers' Swin V2."""

from __future__ import annotations

import math

from torch import Tensor

from vpeft.core.backbones.hosts.transformers.maps.swin import HFSwin, HFSwinLayer, HFSwinMaps, inner_classes
from vpeft.core.backbones.windows.shifted import add_mask, continuous_bias, cosine, pad_bias
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="transformers.Swinv2Layer")
class HFSwinv2Layer(HFSwinLayer):
    """``Swinv2Layer``: cosine attention without a bias of keys, and norms behind the branches."""

    site_targets = ("transformers.models.swinv2.modeling_swinv2.Swinv2Layer",)
    site_parts = inner_classes("{0}.Swinv2")
    norm_behind = True
    free_keys = False

    def site_scores(self, q: Tensor, k: Tensor, mask: Tensor | None, area: int) -> Tensor:
        scores = self.site_products(q, k)
        scores = scores + pad_bias(self.site_bias(area), *scores.shape[-2:]).unsqueeze(0)
        # transformers adds its mask twice.
        return scores if mask is None else add_mask(add_mask(scores, mask), mask)

    def site_products(self, q: Tensor, k: Tensor) -> Tensor:
        return cosine(q, k, self.attention.self.logit_scale)

    def site_bias(self, area: int) -> Tensor:
        attn = self.attention.self
        size = math.prod(attn.window_size)
        return continuous_bias(
            attn.continuous_position_bias_mlp, attn.relative_coords_table, attn.relative_position_index, size
        )

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)


@HOSTS.register_module(name="transformers.Swinv2Model")
class HFSwinv2(HFSwin):
    """``Swinv2Model``."""

    targets = ("transformers.models.swinv2.modeling_swinv2.Swinv2Model",)


@HOSTS.register_module(name="transformers.Swinv2Backbone")
class HFSwinv2Backbone(HFSwinMaps):
    """``Swinv2Backbone``: maps of its ``out_features`` as the stages leave them, without norms."""

    targets = ("transformers.models.swinv2.modeling_swinv2.Swinv2Backbone",)
