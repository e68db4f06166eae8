"""mmaction2's MViT."""

from __future__ import annotations

from torch import Tensor

from vpeft.core.backbones.shared.multiscale import PooledBlock, PooledHost
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmaction.MultiScaleBlock")
class MMActionMViTBlock(PooledBlock):
    """``MultiScaleBlock``, pooled in time and space."""

    site_targets = ("mmaction.models.backbones.mvit.MultiScaleBlock",)
    site_parts = {"attn": ("{0}.MultiScaleAttention",), "mlp": ("{0}.MLP",)}

    @property
    def site_tables(self) -> list[Tensor]:
        attn = self.attn
        return [attn.rel_pos_t, attn.rel_pos_h, attn.rel_pos_w] if attn.rel_pos_embed else []

    def site_places_of(self, q_size: int, k_size: int, table: Tensor) -> Tensor:
        from mmaction.models.backbones.mvit import resize_decomposed_rel_pos

        return resize_decomposed_rel_pos(table, q_size, k_size)


@HOSTS.register_module(name="mmaction.MViT")
class MMActionMViT(PooledHost):
    """mmaction2 ``MViT``; each output is the map of a scale, and its class token."""

    targets = ("mmaction.models.backbones.mvit.MViT",)

    def describe(self) -> None:
        super().describe()
        backbone = self.backbone
        self.prefix = int(backbone.with_cls_token)
        self.special["cls_token"] = "cls_token" if self.prefix else "unused"  # it is cut off again
        if backbone.use_abs_pos_embed:
            self.positions("pos_embed", 1)
        self.pools_map = not backbone.output_cls_token and len(self.outputs) == 1
