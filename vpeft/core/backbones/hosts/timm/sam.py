"""timm's VisionTransformerSAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.timm.resizing import TimmBackbone
from vpeft.core.backbones.windows.shifted import pad_bias
from vpeft.core.backbones.windows.unshifted import MapWindowBlock, frozen_neck
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.SAMBlock")
class TimmSAMBlock(MapWindowBlock):
    """``Block`` of SAM; it draws DropPath for every window, and so inside the branch where it has windows."""

    site_targets = ("timm.models.vision_transformer_sam.Block",)
    site_parts = {"attn": ("{0}.Attention",), "mlp": ("timm.layers.mlp.Mlp",)}

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        return None if block.attn.rope is None else "rotary embeddings (use_rope) are not re-stated in SAM's blocks."

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
        return tuple(None if isinstance(scale, nn.Identity) else scale for scale in (block.ls1, block.ls2))

    def site_normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.attn.q_norm(q), self.attn.k_norm(k)

    def site_mix(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        attn = self.attn
        if not attn.fused_attn:
            weights = attn.attn_drop(self.site_scores(q, k).softmax(dim=-1))
            return weights @ v, weights
        biases = [pad_bias(bias, q.shape[-2], k.shape[-2]) for bias in self.site_positions(q)]
        drop = attn.attn_drop.p if attn.training else 0.0
        flat = (t.flatten(0, 1) for t in (q, k, v))
        y = F.scaled_dot_product_attention(*flat, attn_mask=biases[0] if biases else None, dropout_p=drop)
        return y.unflatten(0, q.shape[:2]), None

    def site_relative(self, q: Tensor, size: tuple[int, ...]) -> Sequence[Tensor]:
        from timm.models.vision_transformer_sam import get_decomposed_rel_pos_bias

        return [get_decomposed_rel_pos_bias(q, self.attn.rel_pos_h, self.attn.rel_pos_w, size, size)]

    def site_window(self, x: Tensor, mask: Tensor | None, area: int) -> Tensor:
        y = self.ls1(super().site_window(x, mask, area))
        return self.drop_path1(y) if self.window_size > 0 else y

    def site_drop1(self, x: Tensor) -> Tensor:
        return x if self.window_size > 0 else self.drop_path1(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ls2(self.mlp(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)


@HOSTS.register_module(name="timm.VisionTransformerSAM")
class TimmSAM(Host):
    """timm ``VisionTransformerSAM``; its neck stays as it is."""

    targets = ("timm.models.vision_transformer_sam.VisionTransformerSAM",)
    backbone_mixin = TimmBackbone

    def describe(self) -> None:
        backbone = self.backbone
        self.add_blocks(backbone.blocks, "blocks")
        require_plain(backbone.patch_embed, "timm.layers.patch_embed.PatchEmbed", "patch_embed")
        if not isinstance(backbone.patch_drop, nn.Identity):
            raise UserError("patch dropout (patch_drop_rate > 0) takes tokens off the map: set it to 0.")
        self.embeds(backbone.patch_embed.proj)
        self.special = frozen_neck(backbone, "neck")
        if backbone.pos_embed is not None:
            self.positions("pos_embed", 0)
        self.add_sites(patch_norm=backbone.patch_embed.norm, pre_norm=backbone.norm_pre)
        self.reads_map = True
        self.flat_stream = False

    def heads(self) -> list[str]:
        return ["head"]
