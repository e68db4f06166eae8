"""mmpretrain's VisionTransformer (also DeiT, MAE, DINO, DINOv2 and CLIP visual weights), distilled too."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmpretrain.TransformerEncoderLayer")
class ViTBlock(SiteBlock):
    """``TransformerEncoderLayer``: DropPath sits inside ``attn`` and ``ffn``, the second residual inside ``ffn``."""

    site_targets = ("mmpretrain.models.backbones.vision_transformer.TransformerEncoderLayer",)
    any_tokens = True
    site_parts = {
        "attn": ("mmpretrain.models.utils.attention.MultiheadAttention",),
        "ffn": ("mmcv.cnn.bricks.transformer.FFN", "mmpretrain.models.utils.swiglu_ffn.SwiGLUFFNFused"),
    }
    queries_apart = True

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        fcs = getattr(block.ffn, "num_fcs", 2)
        if block.attn.v_shortcut or fcs != 2:
            return (
                f"a value shortcut (v_shortcut=True) or an MLP of other than two linears (num_fcs={fcs}) is not "
                "re-stated by this host."
            )
        return None

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | None]:
        ffn = block.ffn
        gated = hasattr(ffn, "w12")
        return {
            "norm1": block.ln1,
            "qkv": block.attn.qkv,
            "proj": block.attn.proj,
            "norm2": block.ln2,
            "fc1": ffn.w12 if gated else ffn.layers[0][0],
            "act": None if gated else ffn.layers[0][1],
            "fc2": ffn.w3 if gated else ffn.layers[1],
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
        scales = (block.attn.gamma1, block.ffn.gamma2)
        return tuple(None if isinstance(scale, nn.Identity) else scale for scale in scales)

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
        return run_swiglu(self, self.ffn, x) if hasattr(self.ffn, "w12") else self.ffn.gamma2(self.ffn.layers(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.ffn.dropout_layer(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.site_forward(x)


def run_swiglu(block: SiteBlock, ffn: nn.Module, x: Tensor) -> Tensor:
    """The gated MLP of a block (``SwiGLUFFN``), LayerScale included, through the block's sites."""
    x = block.site_gate(lambda gate, x: F.silu(gate) * x, *ffn.w12(x).chunk(2, dim=-1))
    return ffn.gamma2(ffn.w3(ffn.norm(x)))


@HOSTS.register_module(name="mmpretrain.VisionTransformer")
class MMPretrainViT(Host):
    """mmpretrain ``VisionTransformer`` and ``DistilledVisionTransformer``, which has a second token."""

    targets = (
        "mmpretrain.models.backbones.vision_transformer.VisionTransformer",
        "mmpretrain.models.backbones.deit.DistilledVisionTransformer",
    )

    def describe(self) -> None:
        backbone = self.backbone
        self.add_blocks(backbone.layers, "layers")
        self.embeds(backbone.patch_embed.projection, backbone.patch_embed)
        self.prefix = backbone.num_extra_tokens
        self.special = {"cls_token": "cls_token", "dist_token": "cls_token"}
        if backbone.pos_embed is not None:
            self.positions("pos_embed", backbone.pos_embed.shape[1] - math.prod(backbone.patch_resolution))
        self.add_sites(patch_norm=backbone.patch_embed.norm, pre_norm=getattr(backbone, "pre_norm", None))
        if hasattr(backbone, "dist_token") and "pre_norm" in self.modules:
            raise UserError("pre_norm=True of a distilled ViT never runs: leave it at False.")
        if backbone.final_norm:
            self.modules["norm.0"] = backbone.ln1
        self.outputs = sorted(i % len(backbone.layers) for i in backbone.out_indices)
        self.reads_map = backbone.out_type == "featmap"
        self.pools_map = backbone.out_type == "avg_featmap"
        if self.pools_map:
            self.modules["pool_norm"] = backbone.ln2

    def map_size(self, inputs: Tensor, embedded: tuple[Tensor, tuple[int, int]]) -> tuple[int, int]:
        return embedded[1]
