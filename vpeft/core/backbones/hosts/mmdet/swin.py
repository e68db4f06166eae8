"""mmdet's SwinTransformer."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vpeft.core.backbones.hosts.mmpretrain.swin import MMPretrainSwin, SwinBlock
from vpeft.core.backbones.windows import partition
from vpeft.registry import BLOCKS, HOSTS

#: Added to the score of two tokens that a shift has brought together.
APART = -100.0


@BLOCKS.register_module(name="mmdet.SwinBlock")
class DenseSwinBlock(SwinBlock):
    """``SwinBlock`` of mmdet and mmseg: it pads a map of any size, and keeps its shift on small ones."""

    site_targets = ("mmdet.models.backbones.swin.SwinBlock", "mmseg.models.backbones.swin.SwinBlock")
    site_parts = {
        "attn": ("{0}.ShiftWindowMSA",),
        "attn.w_msa": ("{0}.WindowMSA",),
        "ffn": ("mmcv.cnn.bricks.transformer.FFN",),
    }

    def site_window_size(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.attn.window_size,) * 2, (self.attn.shift_size,) * 2

    def site_mask(
        self, padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
    ) -> Tensor | None:
        return shift_mask(padded, window[0], shift[0], device) if shift[0] else None

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ffn.layers(x)

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            # Not only where x needs a gradient: over a frozen first block the modules inside need theirs.
            return checkpoint(self.site_forward, x, hw_shape, use_reentrant=False)
        return self.site_forward(x, hw_shape)


@functools.lru_cache(maxsize=8)  # two blocks of every stage, for the present size of image
def shift_mask(padded: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor:
    """``(nW, N, N)``: ``APART`` between tokens of a shifted window that are no neighbours on the map."""
    parts = torch.zeros(1, *padded, 1, device=device)
    edges = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((rows, columns) for rows in edges for columns in edges):
        parts[:, rows, columns] = number
    windows = partition(parts, (window, window)).squeeze(-1)
    differ = windows.unsqueeze(1) != windows.unsqueeze(2)
    return torch.zeros(differ.shape, device=device).masked_fill(differ, APART)


@HOSTS.register_module(name="mmdet.SwinTransformer")
class MMDetSwin(MMPretrainSwin):
    """mmdet ``SwinTransformer``; its outputs are maps for a neck or dense head."""

    targets = ("mmdet.models.backbones.swin.SwinTransformer",)

    def describe(self) -> None:
        super().describe()
        self.pools_map, self.reads_map = False, True
