"""Attention of Hiera: mask units of a stream whose tokens are sorted so that pooling takes the maximum of its parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import unroll
from vpeft.errors import UserError

Steps = tuple[tuple[int, int], ...]


class MaskUnitBlock(SiteBlock):
    """Attention inside mask units or over the whole map; at the start of a stage it may pool the map, and widen it.

    The tokens of a unit do not stand together: those at one place of every unit do (:attr:`.Flow.unrolled`). Prompts
    are in every unit, averaged over the units behind the attention, are not pooled, and pass the projection.

    Attributes:
        peft_steps: How the tokens that enter it are sorted; its host (:class:`MaskUnitHost`) tells.
    """

    free_keys = True
    peft_steps: Steps

    @staticmethod
    def site_reads(block: nn.Module) -> bool:
        return False  # how its tokens are sorted a host alone can tell

    @property
    def site_is_even(self) -> bool:
        return self.site_stride == 1

    @property
    def site_stride(self) -> int:
        """How many tokens become one, 1 where nothing is pooled."""
        raise NotImplementedError(f"{type(self).__name__} states no site_stride")

    @property
    def site_widens(self) -> bool:
        """Whether what leaves it is of another width."""
        raise NotImplementedError(f"{type(self).__name__} states no site_widens")

    def site_pool(self, x: Tensor, dim: int) -> Tensor:
        """The maximum along an axis."""
        return x.amax(dim=dim)

    def site_expand(self, x: Tensor, n: Tensor) -> Tensor:
        """The identity path ``x``, normed ``n``, where the block changes the width."""
        flow, stride = self.peft_flow, self.site_stride
        x = self.proj(n)
        prefix, x = x[:, : flow.prefix], x[:, flow.prefix :]
        x = self.site_pool(x.view(len(x), stride, -1, x.shape[-1]), 1)
        return torch.cat((prefix, x), dim=1) if flow.prefix else x

    def site_entered(self, x: Tensor) -> None:
        flow = self.peft_flow
        if flow.grid and torch.Size(flow.grid).numel() != x.shape[1] - flow.prefix:
            flow.grid = ()  # some units are hidden
        flow.unrolled = self.peft_steps
        super().site_entered(x)

    def site_identity(self, name: str, x: Tensor, n: Tensor) -> Tensor:
        return self.site_expand(x, n) if name == "attn" and self.site_widens else x

    def site_unit_count(self, tokens: int) -> int:
        """Mask units of that many tokens of the map: 1 where attention is over the whole map."""
        attn = self.attn
        return tokens // (self.site_stride * attn.window_size) if attn.use_mask_unit_attn else 1

    def site_attend(self, x: Tensor, **given: Any) -> Tensor:
        """Attention of a stream, as the block's ``attn`` gives it."""
        flow, attn, heads = self.peft_flow, self.attn, self.site_heads(self)
        batch, first = len(x), flow.prefix
        units = self.site_unit_count(x.shape[1] - first)
        q, k, v, n = (self._units(part, units) for part in (*attn.qkv(x).chunk(3, dim=-1), x))
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        q, k, v, _ = self.site_core(q, k, v, n)
        if self.site_stride > 1:
            own, q = q[:, :, :first], q[:, :, first:]
            q = self.site_pool(q.unflatten(2, (self.site_stride, -1)), 2)
            q = torch.cat((own, q), dim=2) if first else q
            if flow.grid:
                flow.grid = tuple(size // by for size, by in zip(flow.grid, self.peft_steps[0], strict=True))
            flow.unrolled = self.peft_steps[1:]
        q, k, v = (part.unflatten(0, (batch, units)).transpose(1, 2) for part in (q, k, v))
        y = self.site_mix(q, k, v, **given)  # (B, heads, units, queries, head width)
        own, y = y[..., :first, :], y[..., first:, :]
        y = y.transpose(1, 3).reshape(batch, -1, heads * y.shape[-1])
        if first:
            y = torch.cat((own.mean(2).transpose(1, 2).flatten(2), y), dim=1)
        return attn.proj(y)

    def _units(self, x: Tensor, units: int) -> Tensor:
        """A stream in its units ``(B * units, prefix + tokens, C)``, its prefix in every one."""
        first = self.peft_flow.prefix
        own, x = x[:, :first], x[:, first:]
        x = x.unflatten(1, (-1, units)).transpose(1, 2)
        if first:
            x = torch.cat((own.unsqueeze(1).expand(-1, units, -1, -1), x), dim=2)
        return x.flatten(0, 1)

    def site_mix(self, q: Tensor, k: Tensor, v: Tensor, **given: Any) -> Tensor:
        """What queries find in values ``(B, heads, units, tokens, head width)``."""
        raise NotImplementedError(f"{type(self).__name__} states no site_mix")

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q * self.attn.scale) @ k.transpose(-1, -2)

    def site_places(self) -> Tensor | None:
        flow = self.peft_flow
        if not flow.grid:
            return None
        numbers = torch.arange(torch.Size(flow.grid).numel()).view(1, -1, 1)
        numbers = unroll(numbers, flow.grid, flow.unrolled)
        return numbers.view(-1, self.site_unit_count(numbers.shape[1])).T


class MaskUnitHost(Host):
    """A backbone that sorts its tokens by the steps of its poolings, :attr:`steps`; without a prefix."""

    steps: Steps = ()

    def adopt(self) -> None:
        super().adopt()
        steps = self.steps
        for block in self.blocks:
            block.module.peft_steps = steps
            if block.module.site_stride > 1:
                steps = steps[1:]

    def seen(self, args: tuple[Any, ...], embedded: Any, **given: Any) -> tuple[int, ...]:
        extents = super().seen(args, embedded, **given)
        cell = [torch.Size(sizes).numel() for sizes in zip(*self.steps, strict=True)]
        if any(size % step for size, step in zip(extents, cell, strict=True)):
            raise UserError(
                f"a map of {'x'.join(map(str, extents))} is no whole number of cells of {'x'.join(map(str, cell))}, by "
                "which this backbone sorts its tokens: give images of another size."
            )
        return extents
