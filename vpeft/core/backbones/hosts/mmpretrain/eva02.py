"""mmpretrain's ViTEVA02."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.hosts.mmpretrain.vit import MMPretrainViT, run_swiglu
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmpretrain.EVA02EndcoderLayer")
class EVA02Block(SiteBlock):
    """``EVA02EndcoderLayer``: the map's tokens are turned by rotary embeddings, and the MLP is gated."""

    site_targets = ("mmpretrain.models.backbones.vit_eva02.EVA02EndcoderLayer",)
    site_parts = {"attn": ("{0}.AttentionWithRoPE",), "mlp": ("mmpretrain.models.utils.swiglu_ffn.SwiGLUFFN",)}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | None]:
        return {
            "norm1": block.norm1,
            "qkv": block.attn.qkv,
            "proj": block.attn.proj,
            "norm2": block.norm2,
            "fc1": block.mlp.w12,
            "act": None,
            "fc2": block.mlp.w3,
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        attn = self.attn
        batch, tokens, _ = x.shape
        q, k, v = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(dim=0)
        if attn.rope is not None:
            q, k = self.site_turn(q, size).type_as(v), self.site_turn(k, size).type_as(v)
        q, k, v, _ = self.site_core(q, k, v, x)
        y = attn.attn_drop(self.site_scores(q, k).softmax(dim=-1).type_as(x)) @ v
        return attn.proj_drop(attn.proj(y.transpose(1, 2).reshape(batch, tokens, -1)))

    def site_turn(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Queries or keys turned by the rotary embedding of their places on the map."""
        prefix = self.peft_flow.prefix
        turned = self.attn.rope(x[:, :, prefix:, :], size)
        return torch.cat((x[:, :, :prefix, :], turned), -2) if prefix else turned

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q * self.attn.scale @ k.transpose(-2, -1)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp.dropout_layer(run_swiglu(self, self.mlp, x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def forward(self, x: Tensor, patch_resolution: tuple[int, int]) -> Tensor:
        return self.site_forward(x, size=patch_resolution)


@HOSTS.register_module(name="mmpretrain.ViTEVA02")
class MMPretrainEVA02(MMPretrainViT):
    """mmpretrain ``ViTEVA02``."""

    targets = ("mmpretrain.models.backbones.vit_eva02.ViTEVA02",)

    def describe(self) -> None:
        super().describe()
        # A pass writes its rotary tables anew where its image has another size than the one before.
        self.special |= {name: "pos_embed" for name, _ in self.backbone.named_buffers() if ".rope.freqs_" in name}
