"""Attention of SAM and ViTDet: unshifted windows of a map, or the whole map, with positions of rows and columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteAttention
from vpeft.core.backbones.windows.shifted import WindowBlock, pad_bias


class MapWindowBlock(WindowBlock):
    """Queries read relative positions of rows and of columns; padding takes part, and prompts get no positions."""

    free_keys = True

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

    @property
    def site_msa(self) -> nn.Module:
        return self.attn

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_window_size(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.window_size,) * 2 if self.window_size > 0 else tuple(extents), (0, 0)

    def site_mask(
        self, padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
    ) -> Tensor | None:
        return None

    def site_window(self, x: Tensor, mask: Tensor | None, area: int) -> Tensor:
        return self.site_out(self.site_heads_of(x)[0].transpose(1, 2).flatten(2))

    def site_heads_of(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Outputs of the heads ``(B * nW, heads, tokens, head width)``, and the attention weights where they exist."""
        batch, tokens, _ = x.shape
        heads = self.site_heads(self)
        qkv = self.site_qkv(x).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = (t.unflatten(0, (batch, heads)) for t in qkv.reshape(3, batch * heads, tokens, -1).unbind(0))
        q, k, v, _ = self.site_core(*self.site_normed(q, k), v, x)
        return self.site_mix(q, k, v)

    def site_normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys through their norms, where the attention has any."""
        return q, k

    def site_mix(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """What queries find in values, and the weights."""
        weights = self.site_scores(q, k).softmax(dim=-1)
        return weights @ v, weights

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        batch, heads = q.shape[:2]
        scores = (q.flatten(0, 1) * self.site_msa.scale) @ k.flatten(0, 1).transpose(-2, -1)
        for bias in self.site_positions(q):
            scores = scores + pad_bias(bias, *scores.shape[-2:])
        return scores.unflatten(0, (batch, heads))

    def site_positions(self, q: Tensor) -> Sequence[Tensor]:
        """What is added to the scores, one after the other: ``(B * nW * heads, N, N)`` of the map's tokens."""
        return self.site_windowed(q) if self.site_msa.use_rel_pos else ()

    def site_windowed(self, q: Tensor) -> Sequence[Tensor]:
        """The same, of an attention that has positions."""
        size = self.site_window_size(self.peft_flow.grid)[0]
        area = math.prod(size)
        return [bias.reshape(-1, area, area) for bias in self.site_relative(q.flatten(0, 1)[:, -area:], size)]

    def site_relative(self, q: Tensor, size: tuple[int, ...]) -> Sequence[Tensor]:
        """Relative positions as the queries ``(B * nW * heads, N, head width)`` of a window of this size read them."""
        raise NotImplementedError(f"{type(self).__name__} states no site_relative")

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[1:3]
        return self.site_forward(x.flatten(1, 2), grid).unflatten(1, grid)


def rows_and_columns(
    q: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, ...], places: Callable[[int, int, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Relative positions of rows and of columns, each ``(B, h, w, h, w)``.

    Args:
        q: Queries ``(B, h * w, C)``.
        rows: Table of relative rows ``(2 h - 1, C)``, of another length where it is to be resized.
        columns: The same of columns.
        size: h and w.
        places: The library's own look-up: extents of queries and of keys, and a table, to ``(h, h, C)``.
    """
    height, width = size
    q = q.reshape(len(q), height, width, -1)
    by_row = torch.einsum("bhwc,hkc->bhwk", q, places(height, height, rows))
    by_column = torch.einsum("bhwc,wkc->bhwk", q, places(width, width, columns))
    whole = (-1, -1, -1, height, width)
    return by_row.unsqueeze(-1).expand(whole), by_column.unsqueeze(-2).expand(whole)


class CalledAttention(SiteAttention):
    """An attention that its block computes, and that is called so that the library can record what it gives out."""

    def forward(
        self, hidden_states: Tensor, *args: Any, compute: Callable[..., Any] | None = None, **given: Any
    ) -> Any:
        if compute is None:
            return super().forward(hidden_states, *args, **given)
        return compute(hidden_states, *args, **given)


def frozen_neck(backbone: nn.Module, name: str) -> dict[str, str]:
    """Roles of the parameters of a neck behind the blocks, which methods leave alone."""
    neck = getattr(backbone, name, None)
    return {} if neck is None else {f"{name}.{key}": "neck" for key, _ in neck.named_parameters()}
