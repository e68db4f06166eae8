"""Attention of MViT: queries, keys and values are pooled by convolutions, and the width changes inside the blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.site import channels_first
from vpeft.errors import UserError

_AXES = "thw"


class PooledBlock(SiteBlock):
    """A block of MViT v2 on maps of two or three dimensions; what is placed at ``core`` sees what is pooled and normed.

    Tokens off the map go the class token's way: past the pooling, through the norms behind it, without positions.
    """

    full_keys = False

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        skip = {} if block.proj is None else {"skip": block.proj}
        return {
            "norm1": block.norm1,
            "qkv": block.attn.qkv,
            "proj": block.attn.proj,
            **skip,
            "norm2": block.norm2,
            "fc1": block.mlp.fc1,
            "act": block.mlp.act,
            "fc2": block.mlp.fc2,
        }

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if block.proj is not None and not block.dim_mul_in_attention:
            return "a width that changes in the MLP (dim_mul_in_attention=False) is not re-stated by this host."
        if block.proj is None and block.pool_skip is not None:
            return "a block that pools its map and keeps its width is not re-stated by this host."
        return None

    def site_places_of(self, q_size: int, k_size: int, table: Tensor) -> Tensor:
        """The library's own look-up of relative positions: ``(q_size, k_size, head width)``."""
        raise NotImplementedError(f"{type(self).__name__} states no site_places_of")

    @property
    def site_tables(self) -> list[Tensor]:
        """Tables of relative positions, one for each dimension of the map in their order; none without positions."""
        raise NotImplementedError(f"{type(self).__name__} states no site_tables")

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_identity(self, name: str, x: Tensor, n: Tensor) -> Tensor:
        if name != "attn":
            return x
        x = x if self.proj is None else self.proj(n)
        return x if self.pool_skip is None else self.site_pooled(x.unsqueeze(1), self.pool_skip)[0].squeeze(1)

    def site_pooled(
        self, x: Tensor, pool: Callable[[Tensor], Tensor] | None, norm: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, tuple[int, ...]]:
        """Tokens ``(B, heads, N, C)`` whose map is pooled, normed all together, and the map's new extents."""
        first, extents = self.peft_flow.prefix, self.peft_flow.grid
        if pool is None:
            return x if norm is None else norm(x), extents
        prefix, x = (x[:, :, :first], x[:, :, first:]) if first else (None, x)
        batch, heads, _, width = x.shape
        x = pool(channels_first(x.reshape(batch * heads, *extents, width)).contiguous())
        extents = tuple(x.shape[2:])
        x = x.reshape(batch, heads, width, -1).transpose(2, 3)
        x = x if prefix is None else torch.cat((prefix, x), dim=2)
        return x if norm is None else norm(x), extents

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        attn, flow = self.attn, self.peft_flow
        qkv = attn.qkv(x).reshape(*x.shape[:2], 3, attn.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, q_grid = self.site_pooled(q, attn.pool_q, attn.norm_q)
        k, k_grid = self.site_pooled(k, attn.pool_k, attn.norm_k)
        v, _ = self.site_pooled(v, attn.pool_v, attn.norm_v)
        q, k, v, _ = self.site_core(q, k, v, x)
        flow.grid = q_grid
        scores = (q * attn.scale) @ k.transpose(-2, -1)
        if self.site_tables:
            scores = self.site_positions(scores, q, q_grid, k_grid)
        y = self.site_residual(scores.softmax(dim=-1) @ v, q)
        return attn.proj(y.transpose(1, 2).reshape(len(x), -1, attn.proj.in_features))

    def site_residual(self, y: Tensor, q: Tensor) -> Tensor:
        """What the heads give ``(B, heads, queries, head width)``, with the queries of the map where they are added."""
        if self.attn.residual_pooling:
            first = self.peft_flow.prefix
            y[:, :, first:] += q[:, :, first:]
        return y

    def site_positions(self, scores: Tensor, q: Tensor, q_grid: tuple[int, ...], k_grid: tuple[int, ...]) -> Tensor:
        """Scores with the relative positions of the map's tokens; those before it have none."""
        axes, names = len(q_grid), _AXES[-len(q_grid) :]
        areas = [torch.Size(grid).numel() for grid in (q_grid, k_grid)]
        rows, columns = (size - area for size, area in zip(scores.shape[-2:], areas, strict=True))
        tables = zip(q_grid, k_grid, self.site_tables, strict=True)
        found = [self.site_places_of(*one) for one in tables]
        queries = q[:, :, rows:].reshape(*q.shape[:2], *q_grid, q.shape[-1])
        whole: Tensor | None = None
        for axis, places in enumerate(found):
            own = torch.einsum(f"by{names}c,{names[axis]}kc->by{names}k", queries, places)
            own = own[(..., *(slice(None) if axis == other else None for other in range(axes)))]
            whole = own if whole is None else whole + own
        inside = scores[:, :, rows:, columns:].view(len(q), -1, *q_grid, *k_grid)
        inside += whole
        scores[:, :, rows:, columns:] = inside.view(len(q), -1, *areas)
        return scores

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def forward(self, x: Tensor, in_size: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
        x = self.site_forward(x, in_size)
        return x, self.peft_flow.grid


class PooledHost(Host):
    """An MViT of OpenMMLab; a norm of an output stands in the stream, before the next stage."""

    def describe(self) -> None:
        backbone = self.backbone
        last = {stage: index for index, stage in backbone.stage_indices.items()}
        final = max(last)
        if final not in backbone.out_scales:
            raise UserError(
                f"out_scales={backbone.out_scales} leaves out the last scale, whose blocks would be adapted for "
                f"nothing: add {final}, or build the backbone with fewer downscale_indices."
            )
        start = 0
        for stage in sorted(last):
            self.add_blocks(backbone.blocks[start : last[stage] + 1], f"blocks[{start}:]", stage)
            start = last[stage] + 1
        self.embeds(backbone.patch_embed.projection, backbone.patch_embed)
        self.add_sites(patch_norm=backbone.patch_embed.norm)
        self.outputs = [last[stage] for stage in sorted(backbone.out_scales)]
        self.adds_between = len(self.outputs) > 1
        for stage in sorted(backbone.out_scales):
            self.modules[f"norm.{stage}"] = getattr(backbone, f"norm{stage}")

    def last_block(self, norm: str) -> Block:
        stage = int(norm.removeprefix("norm."))
        return [block for block in self.blocks if block.stage == stage][-1]

    def map_size(self, inputs: Tensor, embedded: tuple[Tensor, tuple[int, ...]]) -> tuple[int, ...]:
        return tuple(embedded[1])
