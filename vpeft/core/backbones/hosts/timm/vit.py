"""timm's VisionTransformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.timm.resizing import TimmBackbone
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.Block")
class TimmViTBlock(SiteBlock):
    """``Block`` with ``Attention``."""

    site_targets = ("timm.models.vision_transformer.Block",)
    site_parts = {"attn": ("timm.layers.attention.Attention",), "mlp": ("timm.layers.mlp.Mlp",)}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "norm1": block.norm1,
            "qkv": block.attn.qkv,
            "proj": block.attn.proj,
            "norm2": block.norm2,
            "fc1": block.mlp.fc1,
            "act": block.mlp.act,
            "fc2": block.mlp.fc2,
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
        return tuple(None if isinstance(scale, nn.Identity) else scale for scale in (block.ls1, block.ls2))

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        attn = self.attn
        batch, tokens, _ = x.shape
        gate = attn.gate(x).sigmoid() if attn.gate is not None else None
        qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k, v, _ = self.site_core(attn.q_norm(q), attn.k_norm(k), v, x)
        if attn.fused_attn:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=attn.attn_drop.p if attn.training else 0.0)
        else:
            weights = self.site_scores(q, k).softmax(dim=-1)
            y = attn.attn_drop(weights) @ v
        y = attn.norm(y.transpose(1, 2).reshape(batch, tokens, attn.attn_dim))
        if gate is not None:
            y = y * gate
        return self.ls1(attn.proj_drop(attn.proj(y)))

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q * self.attn.scale) @ k.transpose(-2, -1)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ls2(self.mlp(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal:
            raise UserError("an attention mask (attn_mask, is_causal) is not re-stated by this host: leave it out.")
        return self.site_forward(x)


@HOSTS.register_module(name="timm.VisionTransformer")
class TimmViT(Host):
    """timm ``VisionTransformer``."""

    targets = ("timm.models.vision_transformer.VisionTransformer",)
    backbone_mixin = TimmBackbone

    def describe(self) -> None:
        backbone = self.backbone
        self.add_blocks(backbone.blocks, "blocks")
        require_plain(backbone.patch_embed, "timm.layers.patch_embed.PatchEmbed", "patch_embed")
        if not isinstance(backbone.patch_drop, nn.Identity):
            raise UserError("patch dropout (patch_drop_rate > 0) takes tokens off the map: set it to 0.")
        self.embeds(backbone.patch_embed.proj, backbone.patch_embed)
        self.prefix = backbone.num_prefix_tokens
        self.special = {"cls_token": "cls_token", "reg_token": "cls_token"}
        if backbone.pos_embed is not None:
            self.positions("pos_embed", 0 if backbone.no_embed_class else self.prefix)
        self.add_sites(patch_norm=backbone.patch_embed.norm, pre_norm=backbone.norm_pre)
        self.add_sites(norm_0=backbone.norm, pool_norm=backbone.fc_norm)
        if "norm.0" not in self.modules:
            self.identities["norm.0"] = backbone.norm

    def map_size(self, inputs: Tensor, embedded: Tensor) -> tuple[int, int]:
        return self.backbone.patch_embed.dynamic_feat_size(torch.Size(inputs.shape[-2:]))

    def resize_head(self, width: int) -> None:
        plain = self.backbone.head
        if isinstance(plain, nn.Linear) and plain.in_features != width:
            self.plain_heads["head"] = plain
            self.backbone.head = nn.Linear(width, plain.out_features).to(plain.weight)

    def heads(self) -> list[str]:
        return ["head"]
