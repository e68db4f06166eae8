"""mmseg's VisionTransformer, whose attention is torch's ``nn.MultiheadAttention``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmseg.TransformerEncoderLayer")
class MMSegViTBlock(SiteBlock):
    """``TransformerEncoderLayer``: torch's attention reads its weights itself, and works on tokens before images."""

    site_targets = ("mmseg.models.backbones.vit.TransformerEncoderLayer",)
    site_parts = {
        "attn": ("mmcv.cnn.bricks.transformer.MultiheadAttention",),
        "attn.attn": ("torch.nn.modules.activation.MultiheadAttention",),
        "ffn": ("mmcv.cnn.bricks.transformer.FFN",),
    }

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if block.ffn.num_fcs != 2:
            return f"an MLP of other than two linears (num_fcs={block.ffn.num_fcs}) is not re-stated."
        return None

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attn.attn.num_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn = block.attn.attn
        bias = () if attn.in_proj_bias is None else ((attn, "in_proj_bias"),)
        out_bias = () if attn.out_proj.bias is None else ((attn.out_proj, "bias"),)
        return {
            "norm1": block.norm1,
            "qkv": StatedLinear((attn, "in_proj_weight"), *bias),
            "proj": StatedLinear((attn.out_proj, "weight"), *out_bias),
            "norm2": block.norm2,
            "fc1": block.ffn.layers[0][0],
            "act": block.ffn.layers[0][1],
            "fc2": block.ffn.layers[1],
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        attn = self.attn.attn
        site = self.peft_sites["qkv"]
        # Side by side only where a method wants them so: it is a copy.
        q, k, v = (
            site.run(lambda x: torch.cat(self.site_qkv(x), dim=-1), x).chunk(3, dim=-1)
            if site.placed(*site.allowed)
            else self.site_qkv(x)
        )
        q, k, v, _ = self.site_core(*(self.site_split(t) for t in (q, k, v)), x)
        batch, heads = q.shape[:2]
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
        weights = self.site_scores(q, k).softmax(dim=-1)
        weights = F.dropout(weights, attn.dropout, attn.training)
        y = torch.bmm(weights, v).unflatten(0, (batch, heads)).transpose(1, 2).flatten(2)
        y = self.peft_sites["proj"].run(self.site_proj, y)
        return self.attn.proj_drop(y)

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q * math.sqrt(1.0 / self.attn.attn.head_dim) @ k.transpose(-2, -1)

    def site_split(self, t: Tensor) -> Tensor:
        """``(B, tokens, C)`` to ``(B, heads, tokens, head width)``, tokens before images on the way."""
        batch, tokens, _ = t.shape
        heads = self.attn.attn.num_heads
        t = t.transpose(0, 1).reshape(tokens, batch * heads, -1).transpose(0, 1)
        return t.unflatten(0, (batch, heads))

    def site_qkv(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values ``(B, tokens, C)`` each, by three products as torch's attention has them."""
        attn = self.attn.attn
        weights = attn.in_proj_weight.chunk(3)
        biases = (None,) * 3 if attn.in_proj_bias is None else attn.in_proj_bias.chunk(3)
        x = x.transpose(0, 1)
        return [F.linear(x, weight, bias).transpose(0, 1) for weight, bias in zip(weights, biases, strict=True)]

    def site_proj(self, y: Tensor) -> Tensor:
        out = self.attn.attn.out_proj
        rows = F.linear(y.transpose(0, 1).flatten(0, 1), out.weight, out.bias)
        return rows.view(y.shape[1], y.shape[0], -1).transpose(0, 1)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.attn.dropout_layer(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ffn.layers(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.ffn.dropout_layer(x)

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            # Not only where x needs a gradient: over a frozen first block the modules inside need theirs.
            return checkpoint(self.site_forward, x, use_reentrant=False)
        return self.site_forward(x)


@HOSTS.register_module(name="mmseg.VisionTransformer")
class MMSegViT(Host):
    """mmseg ``VisionTransformer``; its outputs are maps for a decode head, one for each of its ``out_indices``."""

    targets = ("mmseg.models.backbones.vit.VisionTransformer",)

    def describe(self) -> None:
        backbone = self.backbone
        self.add_blocks(backbone.layers, "layers")
        self.embeds(backbone.patch_embed.projection, backbone.patch_embed)
        self.prefix = int(backbone.with_cls_token)
        self.reads_map = True
        self.outputs = sorted(i % len(backbone.layers) for i in backbone.out_indices)
        self.special = {"cls_token": "cls_token"}
        self.positions("pos_embed", self.prefix)
        self.add_sites(patch_norm=backbone.patch_embed.norm)
        if backbone.pre_norm:
            self.modules["pre_norm"] = backbone.pre_ln
        if backbone.final_norm:
            self.modules["norm.0"] = backbone.norm1

    def map_size(self, inputs: Tensor, embedded: tuple[Tensor, tuple[int, int]]) -> tuple[int, int]:
        return embedded[1]
