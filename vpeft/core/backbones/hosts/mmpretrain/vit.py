"""mmpretrain's VisionTransformer (also DeiT, MAE, DINO, DINOv2 and CLIP visual weights)."""

from __future__ import annotations

from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.find import require_plain
from vpeft.core.backbones.host import Block, Host
from vpeft.errors import UserError
from vpeft.registry import HOSTS


class ViTBlock(SiteBlock):
    """``TransformerEncoderLayer``: DropPath sits inside ``attn`` and ``ffn``, the second residual inside ``ffn``."""

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.ln1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        attn = self.attn
        batch, tokens, _ = x.shape
        qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, attn.head_dims).permute(2, 0, 3, 1, 4)
        q, k, v, _ = self.site_core(qkv[0], qkv[1], qkv[2], x)
        drop = attn.attn_drop if attn.training else 0.0
        y = attn.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        y = y.transpose(1, 2).reshape(batch, tokens, attn.embed_dims)
        return attn.gamma1(attn.proj_drop(attn.proj(y)))

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        # Where a qk_scale is given, mmpretrain's attention divides by it.
        given = getattr(self.attn.scaled_dot_product_attention, "keywords", {})
        return q @ k.transpose(-2, -1) / given.get("scale", q.shape[-1] ** 0.5)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.attn.out_drop(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.ln2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ffn.gamma2(self.ffn.layers(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.ffn.dropout_layer(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.site_forward(x)


@HOSTS.register_module(name="mmpretrain.VisionTransformer")
class MMPretrainViT(Host):
    """mmpretrain ``VisionTransformer``."""

    target = "mmpretrain.models.backbones.vision_transformer.VisionTransformer"
    block_target = "mmpretrain.models.backbones.vision_transformer.TransformerEncoderLayer"
    block_mixin = ViTBlock

    def describe(self) -> None:
        backbone = self.backbone
        for index, layer in enumerate(backbone.layers):
            require_plain(layer, self.block_target, f"layers.{index}")
            require_plain(layer.attn, "mmpretrain.models.utils.attention.MultiheadAttention", f"layers.{index}.attn")
            require_plain(layer.ffn, "mmcv.cnn.bricks.transformer.FFN", f"layers.{index}.ffn")
            if layer.attn.v_shortcut or layer.ffn.num_fcs != 2:
                raise UserError(
                    f"layers.{index}: a value shortcut (v_shortcut=True) or an MLP of other than two linears "
                    f"(num_fcs={layer.ffn.num_fcs}) is not re-stated by this host."
                )
            self.blocks.append(
                Block(layer, index, 0, layer.embed_dims, layer.attn.num_heads, layer.ffn.feedforward_channels)
            )
        self.prefix = backbone.num_extra_tokens
        projection = backbone.patch_embed.projection
        self.patch_size = tuple(projection.kernel_size)
        self.in_channels = projection.in_channels
        self.channels_first = {"patch_embed"}
        self.special = {"pos_embed": "pos_embed", "cls_token": "cls_token"}
        self.modules["patch_embed"] = projection
        if backbone.patch_embed.norm is not None:
            self.modules["patch_norm"] = backbone.patch_embed.norm
        if not isinstance(backbone.pre_norm, nn.Identity):
            self.modules["pre_norm"] = backbone.pre_norm
        if backbone.final_norm:
            self.modules["norm.0"] = backbone.ln1
        self.outputs = sorted(i % len(backbone.layers) for i in backbone.out_indices)
        self.reads_map = backbone.out_type == "featmap"
        if backbone.out_type == "avg_featmap":
            self.modules["pool_norm"] = backbone.ln2

    def block_modules(self, block: Block) -> dict[str, nn.Module]:
        layer = block.module
        fc1, act = layer.ffn.layers[0][0], layer.ffn.layers[0][1]
        return {
            "norm1": layer.ln1,
            "qkv": layer.attn.qkv,
            "proj": layer.attn.proj,
            "norm2": layer.ln2,
            "fc1": fc1,
            "act": act,
            "fc2": layer.ffn.layers[1],
        }

    def block_scales(self, block: Block) -> tuple[nn.Module | None, nn.Module | None]:
        scales = (block.module.attn.gamma1, block.module.ffn.gamma2)
        return tuple(None if isinstance(scale, nn.Identity) else scale for scale in scales)

    def map_size(self, inputs: Tensor, embedded: tuple[Tensor, tuple[int, int]]) -> tuple[int, int]:
        return embedded[1]
