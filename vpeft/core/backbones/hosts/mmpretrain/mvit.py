"""mmpretrain's MViT."""

from __future__ import annotations

from torch import Tensor

from vpeft.core.backbones.shared.multiscale import PooledBlock, PooledHost
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmpretrain.MultiScaleBlock")
class MMPretrainMViTBlock(PooledBlock):
    """``MultiScaleBlock``, without a class token."""

    site_targets = ("mmpretrain.models.backbones.mvit.MultiScaleBlock",)
    site_parts = {"attn": ("{0}.MultiScaleAttention",), "mlp": ("{0}.MLP",)}

    @property
    def site_tables(self) -> list[Tensor]:
        return [self.attn.rel_pos_h, self.attn.rel_pos_w] if self.attn.rel_pos_spatial else []

    def site_places_of(self, q_size: int, k_size: int, table: Tensor) -> Tensor:
        from mmpretrain.models.backbones.mvit import resize_decomposed_rel_pos

        return resize_decomposed_rel_pos(table, q_size, k_size)


@HOSTS.register_module(name="mmpretrain.MViT")
class MMPretrainMViT(PooledHost):
    """mmpretrain ``MViT``; each output is the map of a scale."""

    targets = ("mmpretrain.models.backbones.mvit.MViT",)

    def describe(self) -> None:
        super().describe()
        if self.backbone.use_abs_pos_embed:
            self.positions("pos_embed", 0)
        self.pools_map = len(self.outputs) == 1
        self.reads_map = not self.pools_map
