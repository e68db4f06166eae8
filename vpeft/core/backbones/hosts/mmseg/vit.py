"""mmseg's VisionTransformer, whose attention is torch's ``nn.MultiheadAttention``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.shared.multihead import MultiheadBlock
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmseg.TransformerEncoderLayer")
class MMSegViTBlock(MultiheadBlock):
    """``TransformerEncoderLayer``: torch's attention reads its weights itself, and works on tokens before images."""

    site_targets = ("mmseg.models.backbones.vit.TransformerEncoderLayer",)
    any_tokens = True
    site_parts = {
        "attn": ("mmcv.cnn.bricks.transformer.MultiheadAttention",),
        "attn.attn": ("torch.nn.modules.activation.MultiheadAttention",),
        "ffn": ("mmcv.cnn.bricks.transformer.FFN",),
    }
    site_multihead, site_weighs, site_packs = "attn.attn", True, False

    @classmethod
    def site_refuses(cls, block: nn.Module) -> str | None:
        if block.ffn.num_fcs != 2:
            return f"an MLP of other than two linears (num_fcs={block.ffn.num_fcs}) is not re-stated."
        return super().site_refuses(block)

    @classmethod
    def site_modules(cls, block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        return {
            "norm1": block.norm1,
            **cls.site_projections(block),
            "norm2": block.norm2,
            "fc1": block.ffn.layers[0][0],
            "act": block.ffn.layers[0][1],
            "fc2": block.ffn.layers[1],
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        return self.attn.proj_drop(self.site_torch(x))

    def site_call(self, x: Tensor, kv: Tensor) -> Tensor:
        # mmcv gives three tensors: by that torch decides how it computes.
        return self.site_msa(*(t.transpose(0, 1) for t in (x, kv, kv)))[0].transpose(0, 1)

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
        # Without it as an input of the blocks, it is put ahead of them, and cut off again.
        self.special = {"cls_token": "cls_token" if self.prefix else "unused"}
        self.positions("pos_embed", self.prefix)
        self.add_sites(patch_norm=backbone.patch_embed.norm)
        if backbone.pre_norm:
            self.modules["pre_norm"] = backbone.pre_ln
        if backbone.final_norm:
            self.modules["norm.0"] = backbone.norm1

    def map_size(self, inputs: Tensor, embedded: tuple[Tensor, tuple[int, int]]) -> tuple[int, int]:
        return embedded[1]
