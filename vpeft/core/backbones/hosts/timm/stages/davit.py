"""timm's DaVit, whose blocks attend in windows and between channels in turn."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.convnext import ConvNextHost
from vpeft.core.backbones.hosts.timm.convnext import add_output_norm, head_parts
from vpeft.core.backbones.hosts.timm.mlp import mlp_modules
from vpeft.core.backbones.windows.shifted import WindowBlock
from vpeft.registry import BLOCKS, HOSTS

_MODULE = "timm.models.davit"


class DaVitBlock(SiteBlock):
    """A depthwise convolution of the map is added to the stream ahead of each unit; tokens off the map bypass it."""

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "norm1": block.norm1,
            "qkv": block.attn.qkv,
            "proj": block.attn.proj,
            "norm2": block.norm2,
            **mlp_modules(block.mlp),
        }

    def site_start(self, x: Tensor) -> Tensor:
        return self.site_beside(x, lambda x: self.site_convolve(self.cpe1, x))

    def site_convolve(self, module: nn.Module, x: Tensor) -> Tensor:
        """A module of maps on the tokens of the map."""
        return module(x.transpose(1, 2).unflatten(2, self.peft_flow.grid)).flatten(2).transpose(1, 2)

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_between(self, x: Tensor) -> Tensor:
        return self.site_beside(x, lambda x: self.site_convolve(self.cpe2, x))

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[2:]
        return self.site_forward(x.flatten(2).transpose(1, 2), grid).transpose(1, 2).unflatten(2, grid)


@BLOCKS.register_module(name="timm.DaVitSpatialBlock")
class TimmSpatialBlock(DaVitBlock, WindowBlock):
    """``SpatialBlock``: attention in windows, padded at the ends of the map."""

    site_targets = (f"{_MODULE}.SpatialBlock",)
    site_parts = {"attn": ("{0}.WindowAttention",), "mlp": ("timm.layers.mlp.Mlp",)}
    free_keys = True

    @property
    def site_msa(self) -> nn.Module:
        return self.attn

    def site_window_size(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(self.window_size), (0, 0)

    def site_mask(self, *args: Any) -> None:
        return None

    def site_window(self, x: Tensor, mask: Tensor | None, area: int) -> Tensor:
        attn = self.attn
        qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v, _ = self.site_core(*qkv.unbind(0), x)
        fused = attn.fused_attn
        y = F.scaled_dot_product_attention(q, k, v) if fused else attn.softmax(self.site_scores(q, k)) @ v
        return attn.proj(y.transpose(1, 2).flatten(2))

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return self.site_products(q, k)


@BLOCKS.register_module(name="timm.DaVitChannelBlock")
class TimmChannelBlock(DaVitBlock):
    """``ChannelBlock``: attention between the channels of a head, over all tokens; no token attends to another."""

    site_targets = (f"{_MODULE}.ChannelBlock",)
    site_parts = {"attn": ("{0}.ChannelAttention", "{0}.ChannelAttentionV2"), "mlp": ("timm.layers.mlp.Mlp",)}
    token_keys = False

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attn.groups if hasattr(block.attn, "groups") else block.attn.num_heads

    def site_attention(self, x: Tensor) -> Tensor:
        attn = self.attn
        tokens, heads = x.shape[1], self.site_heads(self)
        qkv = attn.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v, _ = self.site_core(*qkv.unbind(0), x)
        if hasattr(attn, "dynamic_scale"):  # the second version: queries look among keys, weights are of values
            q = q * tokens**-0.5 if attn.dynamic_scale else q * attn.head_dim**-0.5
            weights, seen = q.transpose(-1, -2) @ k, v
        else:
            weights, seen = (k * attn.scale).transpose(-1, -2) @ v, q
        y = weights.softmax(dim=-1) @ seen.transpose(-1, -2)
        return attn.proj(y.permute(0, 3, 1, 2).flatten(2))


@HOSTS.register_module(name="timm.DaVit")
class TimmDaVit(ConvNextHost):
    """timm ``DaVit``; between its stages a convolution embeds the map anew."""

    targets = (f"{_MODULE}.DaVit",)
    carries_tokens = False

    def describe(self) -> None:
        super().describe()
        backbone = self.backbone
        self.add_stem(backbone.stem.conv, backbone.stem.norm, backbone.stem)
        self.patch_size = tuple(backbone.stem.stride)
        for number, stage in enumerate(backbone.stages):
            require_plain(stage, f"{_MODULE}.DaVitStage", f"stages.{number}")
            between = (
                () if isinstance(stage.downsample, nn.Identity) else (stage.downsample.norm, stage.downsample.conv)
            )
            blocks = [block for pair in stage.blocks for block in pair]
            self.add_stage(number, blocks, f"stages.{number}.blocks", between)
        self.adds_between = True
        add_output_norm(self, backbone.norm_pre, backbone.head)

    def downsample_map(self, stage: int, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        spatial = self.backbone.stages[stage].downsample(tokens.transpose(1, 2).unflatten(2, grid))
        return spatial.flatten(2).transpose(1, 2)

    def heads(self) -> list[str]:
        return head_parts(self.backbone.head)
