"""timm's Nest (NesT)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.windows.shifted import gather, partition, reverse, spread
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.NestTransformerLayer")
class TimmNestBlock(SiteBlock):
    """``TransformerLayer`` of ``nest``: attention inside the parts of a map, whose tokens stand part by part.

    The stream at its sites is the map row by row; its modules see the parts ``(B, parts, N, C)``, as the backbone's do.
    Prompts are in every part, averaged over the parts behind the attention.
    """

    site_targets = ("timm.models.nest.TransformerLayer",)
    site_parts = {"attn": ("{0}.Attention",), "mlp": ("timm.layers.mlp.Mlp",)}
    pointwise_mlp = False  # its modules see whole parts, not a choice of tokens

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        attn, mlp = {"qkv": block.attn.qkv, "proj": block.attn.proj}, block.mlp
        return {"norm1": block.norm1, **attn, "norm2": block.norm2, "fc1": mlp.fc1, "act": mlp.act, "fc2": mlp.fc2}

    @property
    def site_side(self) -> tuple[int, int]:
        """Extents of a part."""
        return self.peft_part, self.peft_part

    def site_cut(self, x: Tensor) -> Tensor:
        """A map's tokens ``(B, H*W, C)`` part by part, ``(B, parts, N, C)``."""
        return partition(x.unflatten(1, self.peft_flow.grid), self.site_side).unflatten(0, (len(x), -1))

    def site_whole(self, parts: Tensor) -> Tensor:
        """The inverse."""
        return reverse(parts.flatten(0, 1), self.site_side, self.peft_flow.grid).flatten(1, 2)

    def site_in_parts(self, operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What looks at each token alone, as the backbone calls it; with other tokens before the map, as a stream."""
        return operation(x) if self.peft_flow.prefix else self.site_whole(operation(self.site_cut(x)))

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.site_in_parts(self.norm1, x)

    def site_attention(self, x: Tensor) -> Tensor:
        first = self.peft_flow.prefix
        parts = self.site_cut(x[:, first:])
        if first:
            parts = spread(x[:, :first], parts.flatten(0, 1)).unflatten(0, (len(x), -1))
        parts = self.site_attend(parts)
        if not first:
            return self.site_whole(parts)
        prefix, parts = gather(parts.flatten(0, 1), len(x), first)
        return torch.cat((prefix, self.site_whole(parts.unflatten(0, (len(x), -1)))), dim=1)

    def site_attend(self, x: Tensor) -> Tensor:
        """Attention inside parts ``(B, parts, tokens, C)``."""
        attn, shape = self.attn, x.shape
        qkv = attn.qkv(x).reshape(*shape[:3], 3, attn.num_heads, -1).permute(3, 0, 4, 1, 2, 5).unbind(0)
        q, k, v, _ = self.site_core(*(part.transpose(1, 2).flatten(0, 1) for part in qkv), x.flatten(0, 1))
        # All parts of an image at once, as the backbone: torch's kernel depends on it.
        q, k, v = (part.unflatten(0, shape[:2]).transpose(1, 2) for part in (q, k, v))
        if attn.fused_attn:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=attn.attn_drop.p if attn.training else 0.0)
        else:
            y = attn.attn_drop(self.site_scores(q, k).softmax(dim=-1)) @ v
        return attn.proj_drop(attn.proj(y.permute(0, 2, 3, 4, 1).reshape(shape)))

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q * self.attn.scale @ k.transpose(-2, -1)

    def site_places(self) -> Tensor:
        extents = self.peft_flow.grid
        numbers = torch.arange(math.prod(extents)).view(1, *extents, 1)
        return partition(numbers, self.site_side).squeeze(-1)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.site_in_parts(self.norm2, x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.site_in_parts(self.mlp, x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)

    def forward(self, x: Tensor) -> Tensor:
        self.peft_part = math.isqrt(x.shape[2])
        grid = (math.isqrt(x.shape[1]) * self.peft_part,) * 2
        stream = reverse(x.flatten(0, 1), self.site_side, grid).flatten(1, 2)
        stream = self.site_forward(stream, grid)
        return partition(stream.unflatten(1, grid), self.site_side).unflatten(0, (len(x), -1))


@HOSTS.register_module(name="timm.Nest")
class TimmNest(Host):
    """timm ``Nest``."""

    targets = ("timm.models.nest.Nest",)
    carries_tokens = False

    def describe(self) -> None:
        backbone = self.backbone
        for number, level in enumerate(backbone.levels):
            self.add_blocks(level.transformer_encoder, f"levels.{number}.transformer_encoder", number)
            self.special[f"levels.{number}.pos_embed"] = "pos_embed"
            if number:
                self.modules[f"downsample{number}.reduction"] = level.pool.conv
                self.modules[f"downsample{number}.norm"] = level.pool.norm
        self.embeds(backbone.patch_embed.proj)
        self.add_sites(patch_norm=backbone.patch_embed.norm, norm_0=backbone.norm)
        self.pools_map, self.adds_between, self.flat_stream = True, True, False

    def heads(self) -> list[str]:
        return ["head"]
