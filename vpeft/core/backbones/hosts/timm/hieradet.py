"""timm's HieraDet, the image encoder of SAM 2."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.windows.pooling import PoolingWindowBlock, add_stages
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.MultiScaleBlock")
class TimmHieraDetBlock(PoolingWindowBlock):
    """``MultiScaleBlock`` of SAM 2."""

    site_targets = ("timm.models.hieradet_sam2.MultiScaleBlock",)
    site_parts = {"attn": ("{0}.MultiScaleAttention",), "mlp": ("timm.layers.mlp.Mlp",)}

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
        return tuple(None if isinstance(scale, nn.Identity) else scale for scale in (block.ls1, block.ls2))

    @property
    def site_stride(self) -> tuple[int, int] | None:
        return self.q_stride

    def site_pool(self, x: Tensor) -> Tensor:
        return self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def site_window_size(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.window_size if self.is_windowed else tuple(extents)), (0, 0)

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        return self.ls1(super().site_attention(x, **given))

    def site_mix(self, q: Tensor, k: Tensor, v: Tensor, **given: Any) -> Tensor:
        fused = self.attn.fused_attn
        y = F.scaled_dot_product_attention(q, k, v) if fused else self.site_scores(q, k).softmax(dim=-1) @ v
        return y.transpose(1, 2).flatten(2)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ls2(self.mlp(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)


@HOSTS.register_module(name="timm.HieraDet")
class TimmHieraDet(Host):
    """timm ``HieraDet``."""

    targets = ("timm.models.hieradet_sam2.HieraDet",)

    def describe(self) -> None:
        backbone = self.backbone
        add_stages(self, backbone.blocks, backbone.stage_ends)
        self.embeds(backbone.patch_embed.proj)
        self.special = {"pos_embed": "pos_embed", "pos_embed_window": "pos_embed"}
        self.reads_map = True
        self.flat_stream = False

    def heads(self) -> list[str]:
        return ["head"]
