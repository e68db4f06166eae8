"""Attention of Hiera: windows of a map whose queries are pooled and whose width changes where a stage begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block import read_block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.windows.shifted import gather, partition, reverse, spread
from vpeft.core.backbones.windows.unshifted import MapWindowBlock


class PoolingWindowBlock(MapWindowBlock):
    """At the start of a stage queries are pooled inside their windows, and the identity path is projected and pooled.

    Prompts go through every window, are not pooled, and pass the projection.
    """

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        skip = {"skip": block.proj} if isinstance(getattr(block, "proj", None), nn.Linear) else {}
        return {**MapWindowBlock.site_modules(block), **skip}

    @property
    def site_is_even(self) -> bool:
        return not self.site_stride

    @property
    def site_stride(self) -> tuple[int, int] | None:
        """By what queries are pooled, None where they are not."""
        raise NotImplementedError(f"{type(self).__name__} states no site_stride")

    def site_pool(self, x: Tensor) -> Tensor:
        """A map ``(B, h, w, C)``, pooled."""
        raise NotImplementedError(f"{type(self).__name__} states no site_pool")

    def site_identity(self, name: str, x: Tensor, n: Tensor) -> Tensor:
        if name != "attn" or self.dim == self.dim_out:
            return x
        x, flow = self.proj(n), self.peft_flow
        if not self.site_stride:
            return x
        prefix, x = x[:, : flow.prefix], x[:, flow.prefix :]
        x = self.site_pool(x.unflatten(1, flow.grid)).flatten(1, 2)
        return torch.cat((prefix, x), dim=1) if flow.prefix else x

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        flow = self.peft_flow
        prefix, x = (x[:, : flow.prefix], x[:, flow.prefix :]) if flow.prefix else (None, x)
        batch, extents = len(x), flow.grid
        window, _ = self.site_window_size(extents)
        x = self.site_shift(x.unflatten(1, extents), window, (0, 0))
        padded = tuple(x.shape[1:-1])
        windows = partition(x, window)
        windows = self.site_window(windows if prefix is None else spread(prefix, windows), window, **given)
        if prefix is not None:
            prefix, windows = gather(windows, batch, prefix.shape[1])
        if self.site_stride:
            window, extents = (
                tuple(size // by for size, by in zip(sizes, self.site_stride, strict=True))
                for sizes in (window, extents)
            )
            padded = tuple(math.ceil(size / step) * step for size, step in zip(extents, window, strict=True))
            flow.grid = extents
        x = reverse(windows, window, padded)[:, : extents[0], : extents[1]].contiguous().flatten(1, 2)
        return x if prefix is None else torch.cat((prefix, x), dim=1)

    def site_window(self, x: Tensor, window: tuple[int, ...], **given: Any) -> Tensor:
        """Attention inside windows: ``(B * nW, tokens, C)`` to outputs of the pooled queries."""
        batch, tokens, _ = x.shape
        heads = self.site_heads(self)
        q, k, v = self.attn.qkv(x).reshape(batch, tokens, 3, heads, -1).unbind(2)
        q, k, v, _ = self.site_core(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), x)
        if self.site_stride:
            first = tokens - math.prod(window)
            q = q.transpose(1, 2)
            prefix, q = q[:, :first], q[:, first:].reshape(batch, *window, -1)
            q = self.site_pool(q).reshape(batch, -1, heads, prefix.shape[-1])
            q = (torch.cat((prefix, q), dim=1) if first else q).transpose(1, 2)
        return self.attn.proj(self.site_mix(q, k, v, **given))

    def site_mix(self, q: Tensor, k: Tensor, v: Tensor, **given: Any) -> Tensor:
        """What queries find in values, heads side by side ``(B * nW, queries, C)``."""
        raise NotImplementedError(f"{type(self).__name__} states no site_mix")

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q * self.attn.scale) @ k.transpose(-2, -1)

    def forward(self, x: Tensor, **given: Any) -> Tensor:
        stride = self.site_stride or (1, 1)
        pooled = tuple(size // by for size, by in zip(x.shape[1:3], stride, strict=True))
        return self.site_forward(x.flatten(1, 2), x.shape[1:3], **given).unflatten(1, pooled)


def add_stages(host: Host, blocks: Sequence[nn.Module], ends: Sequence[int]) -> None:
    """State blocks in one sequence, whose stages end at these numbers."""
    for number, module in enumerate(blocks):
        stage = sum(number > end for end in ends)
        host.blocks.append(read_block(module, number, stage, f"blocks.{number}"))
