"""timm's XCiT."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.block_forward import Operation, SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.timm.pooled.class_attention import add_class_attention
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.XCABlock")
class TimmXCABlock(SiteBlock):
    """``XCABlock``: attention among channels, convolutions of the map as a unit of their own, and the MLP.

    Tokens off the map take part in the attention, and pass the convolutions.
    """

    site_targets = ("timm.models.xcit.XCABlock",)
    site_parts = {"attn": ("{0}.XCA",), "local_mp": ("{0}.LPI",), "mlp": ("timm.layers.mlp.Mlp",)}
    token_keys = False
    unit_keys = True

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
    def site_scales(block: nn.Module) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
        return block.gamma1, block.gamma2, block.gamma3

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        attn = self.attn
        batch, tokens, dim = x.shape
        qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 4, 1)
        q, k, v, _ = self.site_core(*(t.transpose(-2, -1) for t in qkv.unbind(0)), x)
        q, k, v = (t.transpose(-2, -1) for t in (q, k, v))
        if attn.fused_attn:
            q = F.normalize(q, dim=-1) * attn.temperature
            y = F.scaled_dot_product_attention(q, F.normalize(k, dim=-1), v, scale=1.0)
        else:
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            y = attn.attn_drop(((q @ k.transpose(-2, -1)) * attn.temperature).softmax(dim=-1)) @ v
        return self.gamma1 * attn.proj_drop(attn.proj(y.permute(0, 3, 1, 2).reshape(batch, tokens, dim)))

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_unit(self, name: str, norm: Operation, operation: Operation, drop: Operation, x: Tensor) -> Tensor:
        x = self.site_beside(x, self.site_local) if name == "mlp" else x
        return super().site_unit(name, norm, operation, drop, x)

    def site_local(self, x: Tensor) -> Tensor:
        """The map's tokens ``(B, H*W, C)`` with what the convolutions add."""
        return x + self.drop_path3(self.gamma3 * self.local_mp(self.norm3(x), *self.peft_flow.hw))

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.gamma2 * self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return self.site_forward(x, (H, W))


@HOSTS.register_module(name="timm.Xcit")
class TimmXcit(Host):
    """timm ``Xcit``; its patch embedding is of several convolutions, of which the last is the site."""

    targets = ("timm.models.xcit.Xcit",)

    def describe(self) -> None:
        backbone, embedding = self.backbone, self.backbone.patch_embed
        self.add_blocks(backbone.blocks, "blocks")
        require_plain(embedding, "timm.models.xcit.ConvPatchEmbed", "patch_embed")
        convolution, norm = embedding.proj[-1]
        self.embeds(convolution, embedding)
        self.patch_size, self.in_channels = (embedding.patch_size,) * 2, backbone.in_chans
        self.add_sites(patch_norm=norm)
        self.channels_first = {"patch_norm"}
        self.pools_map = backbone.global_pool == "avg"
        add_class_attention(self, "cls_attn_blocks")

    def map_size(self, inputs: Tensor, embedded: Any) -> tuple[int, int]:
        return embedded[1]

    def heads(self) -> list[str]:
        return ["head"]
