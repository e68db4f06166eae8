"""timm's VisionTransformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.find import require_plain
from vpeft.core.backbones.host import Block, Host
from vpeft.core.backbones.hosts.timm.resizing import TimmBackbone
from vpeft.errors import UserError
from vpeft.registry import HOSTS


class TimmViTBlock(SiteBlock):
    """``Block`` with ``Attention``."""

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

    target = "timm.models.vision_transformer.VisionTransformer"
    block_target = "timm.models.vision_transformer.Block"
    block_mixin = TimmViTBlock
    backbone_mixin = TimmBackbone

    def describe(self) -> None:
        backbone = self.backbone
        for index, block in enumerate(backbone.blocks):
            require_plain(block, self.block_target, f"blocks.{index}")
            require_plain(block.attn, "timm.layers.attention.Attention", f"blocks.{index}.attn")
            require_plain(block.mlp, "timm.layers.mlp.Mlp", f"blocks.{index}.mlp")
            dim, hidden = block.attn.qkv.in_features, block.mlp.fc1.out_features
            self.blocks.append(Block(block, index, 0, dim, block.attn.num_heads, hidden))
        require_plain(backbone.patch_embed, "timm.layers.patch_embed.PatchEmbed", "patch_embed")
        if not isinstance(backbone.patch_drop, nn.Identity):
            raise UserError("patch dropout (patch_drop_rate > 0) takes tokens off the map: set it to 0.")
        self.prefix = backbone.num_prefix_tokens
        projection = backbone.patch_embed.proj
        self.patch_size = tuple(projection.kernel_size)
        self.in_channels = projection.in_channels
        self.channels_first = {"patch_embed"}
        self.special = {"pos_embed": "pos_embed", "cls_token": "cls_token", "reg_token": "cls_token"}
        self.modules["patch_embed"] = projection
        norms = {"patch_norm": backbone.patch_embed.norm, "pre_norm": backbone.norm_pre}
        norms |= {"norm.0": backbone.norm, "pool_norm": backbone.fc_norm}
        self.modules.update({k: m for k, m in norms.items() if not isinstance(m, nn.Identity)})
        if "norm.0" not in self.modules:
            self.identities["norm.0"] = backbone.norm

    def block_modules(self, block: Block) -> dict[str, nn.Module]:
        module = block.module
        return {
            "norm1": module.norm1,
            "qkv": module.attn.qkv,
            "proj": module.attn.proj,
            "norm2": module.norm2,
            "fc1": module.mlp.fc1,
            "act": module.mlp.act,
            "fc2": module.mlp.fc2,
        }

    def block_scales(self, block: Block) -> tuple[nn.Module | None, nn.Module | None]:
        scales = (block.module.ls1, block.module.ls2)
        return tuple(None if isinstance(scale, nn.Identity) else scale for scale in scales)

    def map_size(self, inputs: Tensor, embedded: Tensor) -> tuple[int, int]:
        return self.backbone.patch_embed.dynamic_feat_size(torch.Size(inputs.shape[-2:]))

    def resize_head(self, width: int) -> None:
        plain = self.backbone.head
        if isinstance(plain, nn.Linear) and plain.in_features != width:
            self.plain_heads["head"] = plain
            self.backbone.head = nn.Linear(width, plain.out_features).to(plain.weight)

    def heads(self) -> list[str]:
        return ["head"]
