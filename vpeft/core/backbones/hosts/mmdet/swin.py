"""mmdet's SwinTransformer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vpeft.core.backbones.hosts.mmpretrain.swin import MMPretrainSwin, SwinBlock
from vpeft.core.backbones.windows.shifted import shift_mask
from vpeft.registry import BLOCKS, HOSTS


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
        return shift_mask(padded, window, shift, device) if any(shift) else None

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ffn.layers(x)

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            # Not only where x needs a gradient: over a frozen first block the modules inside need theirs.
            return checkpoint(self.site_forward, x, hw_shape, use_reentrant=False)
        return self.site_forward(x, hw_shape)


@HOSTS.register_module(name="mmdet.SwinTransformer")
class MMDetSwin(MMPretrainSwin):
    """mmdet ``SwinTransformer``; its outputs are maps for a neck or dense head."""

    targets = ("mmdet.models.backbones.swin.SwinTransformer",)

    def describe(self) -> None:
        super().describe()
        self.pools_map, self.reads_map = False, True
