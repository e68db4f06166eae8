"""timm's SwinTransformer."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.timm.resizing import TimmBackbone
from vpeft.core.backbones.windows.shifted import gather, pad_bias, spread
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.SwinTransformerBlock")
class TimmSwinBlock(SiteBlock):
    """``SwinTransformerBlock`` with ``WindowAttention``; its channels-last maps are streams inside the block."""

    site_targets = ("timm.models.swin_transformer.SwinTransformerBlock",)
    site_parts = {"attn": ("timm.models.swin_transformer.WindowAttention",), "mlp": ("timm.layers.mlp.Mlp",)}

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

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        from timm.models.swin_transformer import window_partition, window_reverse

        flow = self.peft_flow
        prefix, x = (x[:, : flow.prefix], x[:, flow.prefix :]) if flow.prefix else (None, x)
        batch, _, dim = x.shape
        height, width = flow.hw
        size, shift = self.window_size, self.shift_size
        x = self.site_shift(x.reshape(batch, height, width, dim))
        padded = x.shape[1:3]
        windows = window_partition(x, size).view(-1, self.window_area, dim)
        mask = self.get_attn_mask(x) if getattr(self, "dynamic_mask", False) else self.attn_mask
        if prefix is not None:
            windows = spread(prefix, windows)
        windows = self.site_window(windows, mask)
        if prefix is not None:
            prefix, windows = gather(windows, batch, prefix.shape[1])
        x = window_reverse(windows.reshape(-1, size[0], size[1], dim), size, *padded)
        x = x[:, :height, :width, :].contiguous()
        if any(shift):
            x = torch.roll(x, shifts=shift, dims=(1, 2))
        x = x.reshape(batch, height * width, dim)
        return x if prefix is None else torch.cat((prefix, x), dim=1)

    def site_shift(self, x: Tensor) -> Tensor:
        """A map ``(B, H, W, C)`` rolled by the shift and padded to whole windows."""
        height, width = x.shape[1:3]
        size, shift = self.window_size, self.shift_size
        if any(shift):
            x = torch.roll(x, shifts=(-shift[0], -shift[1]), dims=(1, 2))
        return F.pad(x, (0, 0, 0, (size[1] - width % size[1]) % size[1], 0, (size[0] - height % size[0]) % size[0]))

    def site_places(self) -> Tensor:
        from timm.models.swin_transformer import window_partition

        height, width = self.peft_flow.hw
        numbers = torch.arange(1, height * width + 1).view(1, height, width, 1)
        return window_partition(self.site_shift(numbers), self.window_size).flatten(1) - 1

    def site_window(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention inside windows: ``(B * nW, tokens, C)`` to the same, with bias and mask on the map's tokens."""
        attn = self.attn
        batch, tokens, _ = x.shape
        qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = functools.partial(self.site_scores, mask=mask)
        q, k, v, _ = self.site_core(*qkv.unbind(0), x, scores)
        if attn.fused_attn:
            keys = k.shape[-2]
            bias = pad_bias(attn._get_rel_pos_bias(), tokens, keys)
            if mask is not None:
                count = mask.shape[0]
                mask = pad_bias(mask, tokens, keys)
                mask = mask.view(1, count, 1, tokens, keys).expand(batch // count, -1, attn.num_heads, -1, -1)
                bias = bias + mask.reshape(-1, attn.num_heads, tokens, keys)
            drop = attn.attn_drop.p if attn.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop)
        else:
            y = attn.attn_drop(attn.softmax(scores(q, k))) @ v
        y = y.transpose(1, 2).reshape(batch, tokens, -1)
        return attn.proj_drop(attn.proj(y))

    def site_scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        attn = self.attn
        tokens, keys = q.shape[-2], k.shape[-2]
        weights = (q * attn.scale) @ k.transpose(-2, -1) + pad_bias(attn._get_rel_pos_bias(), tokens, keys)
        if mask is not None:
            mask = pad_bias(mask, tokens, keys)
            weights = weights.view(-1, len(mask), attn.num_heads, tokens, keys) + mask.unsqueeze(1).unsqueeze(0)
            weights = weights.view(-1, attn.num_heads, tokens, keys)
        return weights

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        x = self.site_forward(x.reshape(batch, height * width, dim), (height, width))
        return x.reshape(batch, height, width, dim)


@HOSTS.register_module(name="timm.SwinTransformer")
class TimmSwin(Host):
    """timm ``SwinTransformer``."""

    targets = ("timm.models.swin_transformer.SwinTransformer",)
    backbone_mixin = TimmBackbone

    def describe(self) -> None:
        backbone = self.backbone
        for stage, sequence in enumerate(backbone.layers):
            self.add_blocks(sequence.blocks, f"layers.{stage}.blocks", stage)
            if not isinstance(sequence.downsample, nn.Identity):
                self.modules[f"downsample{stage}.norm"] = sequence.downsample.norm
                self.modules[f"downsample{stage}.reduction"] = sequence.downsample.reduction
        require_plain(backbone.patch_embed, "timm.layers.patch_embed.PatchEmbed", "patch_embed")
        self.embeds(backbone.patch_embed.proj, backbone.patch_embed)
        self.pools_map = True
        self.flat_stream = False
        self.add_sites(patch_norm=backbone.patch_embed.norm, norm_0=backbone.norm)

    def map_size(self, inputs: Tensor, embedded: Tensor) -> tuple[int, int]:
        return tuple(embedded.shape[1:3])

    def downsample_map(self, stage: int, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        return self.backbone.layers[stage].downsample(tokens.unflatten(1, grid)).flatten(1, 2)

    def heads(self) -> list[str]:
        return ["head"]
