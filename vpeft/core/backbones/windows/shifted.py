"""Windowed attention, with tokens that are not on the map: shared by the hosts with windows, in images and in video."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.sites.passes import in_program
from vpeft.errors import UserError

#: Added to the score of two tokens that a shift has brought together.
APART = -100.0


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


def pad_bias(bias: Tensor, queries: int, keys: int, own: int = 0) -> Tensor:
    """Zero-pad a bias or mask ``(..., N, N)`` to ``(..., queries, keys)``.

    Prompts and prefixes have no position on the map and get neither bias nor mask: prefixes stand before all keys,
    prompts behind the ``own`` tokens before the map that the bias knows.
    """
    n_q, n_k = bias.shape[-2:]
    if (n_q, n_k) == (queries, keys):
        return bias
    if n_q > queries or n_k > keys:
        raise UserError(
            f"a window of {queries} tokens has positions for {n_q}: the map is smaller than the window that the "
            "backbone was built with. Take larger images, or a smaller window."
        )
    if own and queries > n_q:
        bias = _behind(_behind(bias, own, queries - n_q, -2), own, queries - n_q, -1)
        n_q, n_k = bias.shape[-2:]
    return F.pad(bias, (keys - n_k, 0, queries - n_q, 0))


def _behind(bias: Tensor, own: int, count: int, axis: int) -> Tensor:
    shape = list(bias.shape)
    shape[axis] = count
    first, rest = bias.split([own, bias.shape[axis] - own], dim=axis)
    return torch.cat((first, bias.new_zeros(shape), rest), dim=axis)


def add_mask(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores ``(B * nW, heads, queries, keys)`` with the mask ``(nW, N, N)`` of each window."""
    heads, queries, keys = scores.shape[1:]
    mask = pad_bias(mask, queries, keys).to(scores.dtype)
    scores = scores.view(-1, len(mask), heads, queries, keys) + mask.unsqueeze(1).unsqueeze(0)
    return scores.view(-1, heads, queries, keys)


def table_bias(table: Tensor, index: Tensor, area: int) -> Tensor:
    """Relative positions ``(heads, area, area)`` of a table ``(rows, heads)``, by the row of each pair of tokens."""
    return table[index.reshape(-1)].view(area, area, -1).permute(2, 0, 1).contiguous()


def shift_mask(
    padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
) -> Tensor:
    """``(nW, N, N)``: ``APART`` between tokens of a shifted window that are no neighbours on the map."""
    make = _shift_mask.__wrapped__ if in_program() else _shift_mask  # what an exporter makes is no tensor to be kept
    return make(padded, window, shift, device)


@functools.lru_cache(maxsize=8)  # two blocks of every stage, for the present size of image
def _shift_mask(
    padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
) -> Tensor:
    parts = torch.zeros(1, *padded, 1, device=device)
    cuts = [
        (slice(0, -size), slice(-size, -by), slice(-by, None)) if by else (slice(None),)
        for size, by in zip(window, shift, strict=True)
    ]
    for number, (rows, columns) in enumerate(itertools.product(*cuts)):
        parts[:, rows, columns] = number
    windows = partition(parts, window).squeeze(-1)
    differ = windows.unsqueeze(1) != windows.unsqueeze(2)
    return torch.zeros(differ.shape, device=device).masked_fill(differ, APART)


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

    A host's mixin states :meth:`site_window_size`, :meth:`site_mask` and ``site_msa``, or all that reads it.

    Attributes:
        site_msa: The module that holds qkv, proj, scale and the table of relative positions.
    """

    site_msa: nn.Module

    def site_window_size(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Extents of window and shift on a map of these extents."""
        raise NotImplementedError(f"{type(self).__name__} states no site_window_size")

    def site_mask(
        self, padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
    ) -> Tensor | None:
        """What is added to the scores ``(nW, N, N)`` on a padded map, or None."""
        raise NotImplementedError(f"{type(self).__name__} states no site_mask")

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        flow = self.peft_flow
        prefix, x = (x[:, : flow.prefix], x[:, flow.prefix :]) if flow.prefix else (None, x)
        batch, _, dim = x.shape
        extents = flow.grid
        axes = tuple(range(1, 1 + len(extents)))
        window, shift = self.site_window_size(extents)
        x = self.site_shift(x.reshape(batch, *extents, dim), window, shift)
        padded = tuple(x.shape[1:-1])
        mask = self.site_mask(padded, window, shift, x.device)
        windows = self.site_partition(x, window)
        if prefix is not None:
            windows = spread(prefix, windows)
        windows = self.site_window(windows, mask, math.prod(window), **given)
        if prefix is not None:
            prefix, windows = gather(windows, batch, prefix.shape[1])
        x = self.site_reverse(windows, window, padded)
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

    def site_partition(self, x: Tensor, window: tuple[int, ...]) -> Tensor:
        """A map in windows: :func:`partition`."""
        return partition(x, window)

    def site_reverse(self, windows: Tensor, window: tuple[int, ...], extents: tuple[int, ...]) -> Tensor:
        """The inverse: :func:`reverse`."""
        return reverse(windows, window, extents)

    def site_places(self) -> Tensor:
        extents = self.peft_flow.grid
        window, shift = self.site_window_size(extents)
        numbers = torch.arange(1, math.prod(extents) + 1).view(1, *extents, 1)
        return self.site_partition(self.site_shift(numbers, window, shift), window).squeeze(-1) - 1

    def site_window(self, x: Tensor, mask: Tensor | None, area: int) -> Tensor:
        """Attention inside windows: ``(B * nW, tokens, C)`` to the same, with bias and mask on the map's tokens."""
        batch, tokens, dim = x.shape
        heads = self.site_heads(self)
        qkv = self.site_qkv(x).reshape(batch, tokens, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        scores = functools.partial(self.site_scores, mask=mask, area=area)
        q, k, v, _ = self.site_core(qkv[0], qkv[1], qkv[2], x, scores)
        weights = self.site_weights(scores(q, k))
        return self.site_out((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))

    def site_qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side."""
        return self.site_msa.qkv(x)

    def site_weights(self, scores: Tensor) -> Tensor:
        """Softmax and dropout of the scores."""
        return self.site_msa.attn_drop(self.site_msa.softmax(scores))

    def site_out(self, y: Tensor) -> Tensor:
        """The heads' outputs together through the projection."""
        return self.site_msa.proj_drop(self.site_msa.proj(y))

    def site_scores(self, q: Tensor, k: Tensor, mask: Tensor | None, area: int) -> Tensor:
        scores = self.site_products(q, k)
        scores = scores + pad_bias(self.site_bias(area), *scores.shape[-2:]).unsqueeze(0)
        return scores if mask is None else add_mask(scores, mask)

    def site_products(self, q: Tensor, k: Tensor) -> Tensor:
        """Queries times keys, scaled."""
        return q * self.site_msa.scale @ k.transpose(-2, -1)

    def site_bias(self, area: int) -> Tensor:
        """What is added to the scores by relative position, ``(heads, area, area)``."""
        msa = self.site_msa
        return table_bias(msa.relative_position_bias_table, msa.relative_position_index[:area, :area], area)


class CosineWindowBlock(WindowBlock):
    """Swin V2: normalised queries and keys, a bias that a small MLP makes of positions, norms behind the branches."""

    norm_behind = True

    def site_products(self, q: Tensor, k: Tensor) -> Tensor:
        return cosine(q, k, self.site_msa.logit_scale)

    def site_bias(self, area: int) -> Tensor:
        msa = self.site_msa
        return continuous_bias(msa.cpb_mlp, msa.relative_coords_table, msa.relative_position_index, area)


def cosine(q: Tensor, k: Tensor, scale: Tensor) -> Tensor:
    """Cosines of queries and keys, times a learned scale of each head, its logarithm ``(heads, 1, 1)``."""
    cosines = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    return cosines * torch.clamp(scale, max=math.log(100.0)).exp()


def continuous_bias(mlp: nn.Module, coordinates: Tensor, index: Tensor, area: int) -> Tensor:
    """Relative positions ``(heads, area, area)`` that an MLP makes of their coordinates ``(1, rows, columns, 2)``."""
    table = mlp(coordinates).flatten(0, -2)
    return 16 * torch.sigmoid(table_bias(table, index, area))
