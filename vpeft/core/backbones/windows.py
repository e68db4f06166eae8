"""Windowed attention, with tokens that are not on the map: shared by the Swin hosts, in images and in video."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock


def spread(prefix: Tensor, windows: Tensor) -> Tensor:
    """Put every image's prefix tokens before the tokens of each of its windows.

    Args:
        prefix: ``(B, P, C)``.
        windows: ``(B * nW, N, C)``, image by image.

    Returns:
        ``(B * nW, P + N, C)``.
    """
    count = windows.shape[0] // prefix.shape[0]
    return torch.cat((prefix.repeat_interleave(count, dim=0), windows), dim=1)


def gather(windows: Tensor, images: int, length: int) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`spread`: prefix tokens averaged over an image's windows, and the windows without them.

    Args:
        windows: ``(B * nW, P + N, C)``, image by image.
        images: B.
        length: P.
    """
    prefix = windows[:, :length].reshape(images, -1, length, windows.shape[-1]).mean(1)
    return prefix, windows[:, length:]


def pad_bias(bias: Tensor, queries: int, keys: int) -> Tensor:
    """Zero-pad a bias or mask ``(..., N, N)`` at its front to ``(..., queries, keys)``.

    Prompts and prefixes have no position in the window: they stand first and get neither bias nor mask.
    """
    n_q, n_k = bias.shape[-2:]
    if (n_q, n_k) == (queries, keys):
        return bias
    return F.pad(bias, (keys - n_k, 0, queries - n_q, 0))


def partition(x: Tensor, window: Sequence[int]) -> Tensor:
    """A map ``(B, *extents, C)`` in windows, ``(B * nW, N, C)``; the extents are multiples of the window's."""
    cut = [part for size, step in zip(x.shape[1:-1], window, strict=True) for part in (size // step, step)]
    x = x.view(x.shape[0], *cut, x.shape[-1])
    axes = len(window)
    outer, inner = range(1, 2 * axes, 2), range(2, 2 * axes + 1, 2)
    return x.permute(0, *outer, *inner, 2 * axes + 1).contiguous().view(-1, math.prod(window), x.shape[-1])


def reverse(windows: Tensor, window: Sequence[int], extents: Sequence[int]) -> Tensor:
    """The inverse of :func:`partition`."""
    counts = [size // step for size, step in zip(extents, window, strict=True)]
    x = windows.reshape(-1, *counts, *window, windows.shape[-1])
    axes = len(window)
    order = [axis for i in range(axes) for axis in (1 + i, 1 + axes + i)]
    return x.permute(0, *order, 2 * axes + 1).contiguous().view(-1, *extents, windows.shape[-1])


class WindowBlock(SiteBlock):
    """Attention inside (shifted) windows of a map, padded at its ends; prefix tokens go through every window.

    A host's mixin states :meth:`site_msa`, :meth:`site_window_size` and :meth:`site_mask`.
    """

    @property
    def site_msa(self) -> nn.Module:
        """The module that holds qkv, proj, scale and the table of relative positions."""
        raise NotImplementedError(f"{type(self).__name__} states no site_msa")

    def site_window_size(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Extents of window and shift on a map of these extents."""
        raise NotImplementedError(f"{type(self).__name__} states no site_window_size")

    def site_mask(
        self, padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
    ) -> Tensor | None:
        """What is added to the scores ``(nW, N, N)`` on a padded map, or None."""
        raise NotImplementedError(f"{type(self).__name__} states no site_mask")

    def site_attention(self, x: Tensor) -> Tensor:
        flow = self.peft_flow
        prefix, x = (x[:, : flow.prefix], x[:, flow.prefix :]) if flow.prefix else (None, x)
        batch, _, dim = x.shape
        extents = flow.grid
        axes = tuple(range(1, 1 + len(extents)))
        window, shift = self.site_window_size(extents)
        x = self.site_shift(x.reshape(batch, *extents, dim), window, shift)
        padded = tuple(x.shape[1:-1])
        mask = self.site_mask(padded, window, shift, x.device)
        windows = partition(x, window)
        if prefix is not None:
            windows = spread(prefix, windows)
        windows = self.site_window(windows, mask, math.prod(window))
        if prefix is not None:
            prefix, windows = gather(windows, batch, prefix.shape[1])
        x = reverse(windows, window, padded)
        if any(shift):
            x = torch.roll(x, shifts=shift, dims=axes)
        if padded != tuple(extents):
            x = x[(slice(None), *(slice(size) for size in extents))].contiguous()
        x = x.view(batch, -1, dim)
        return x if prefix is None else torch.cat((prefix, x), dim=1)

    def site_shift(self, x: Tensor, window: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
        """A map ``(B, *extents, C)`` padded to whole windows and rolled by the shift."""
        lacking = [(step - size % step) % step for size, step in zip(x.shape[1:-1], window, strict=True)]
        x = F.pad(x, (0, 0, *(n for lack in reversed(lacking) for n in (0, lack))))
        if any(shift):
            x = torch.roll(x, shifts=tuple(-s for s in shift), dims=tuple(range(1, x.dim() - 1)))
        return x

    def site_places(self) -> Tensor:
        extents = self.peft_flow.grid
        window, shift = self.site_window_size(extents)
        numbers = torch.arange(1, math.prod(extents) + 1).view(1, *extents, 1)
        return partition(self.site_shift(numbers, window, shift), window).squeeze(-1) - 1

    def site_window(self, x: Tensor, mask: Tensor | None, area: int) -> Tensor:
        """Attention inside windows: ``(B * nW, tokens, C)`` to the same, with bias and mask on the map's tokens."""
        msa = self.site_msa
        batch, tokens, dim = x.shape
        qkv = msa.qkv(x).reshape(batch, tokens, 3, msa.num_heads, dim // msa.num_heads).permute(2, 0, 3, 1, 4)
        scores = functools.partial(self.site_scores, mask=mask, area=area)
        q, k, v, _ = self.site_core(qkv[0], qkv[1], qkv[2], x, scores)
        attn = msa.attn_drop(msa.softmax(scores(q, k)))
        y = (attn @ v).transpose(1, 2).reshape(batch, tokens, dim)
        return msa.proj_drop(msa.proj(y))

    def site_scores(self, q: Tensor, k: Tensor, mask: Tensor | None, area: int) -> Tensor:
        msa = self.site_msa
        attn = q * msa.scale @ k.transpose(-2, -1)
        batch, _, tokens, keys = attn.shape
        index = msa.relative_position_index[:area, :area].reshape(-1)
        bias = msa.relative_position_bias_table[index].view(area, area, -1)
        bias = bias.permute(2, 0, 1).contiguous()
        attn = attn + pad_bias(bias, tokens, keys).unsqueeze(0)
        if mask is not None:
            count = mask.shape[0]
            mask = pad_bias(mask, tokens, keys).to(attn.dtype)
            attn = attn.view(batch // count, count, msa.num_heads, tokens, keys) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, msa.num_heads, tokens, keys)
        return attn
