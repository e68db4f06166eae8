"""``vpeft.SimpleFeaturePyramid``: maps of several strides from the one map of a plain ViT."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from vpeft.errors import UserError
from vpeft.registry import MODELS


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map ``(B, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """The simple feature pyramid of ViTDet (arXiv 2203.16527, Section 3) as a neck.

    From the last map alone: transposed convolutions of stride 2 double its size (norm and GELU between two of them),
    max pooling halves it; then on each a 1x1 and a 3x3 convolution, each with a norm over channels and no bias. Further
    maps, for RPN and RetinaNet, are the last one at every second place, as the authors' code has them.

    Args:
        in_channels: Width of the map.
        out_channels: Width of every output.
        scales: Size of each output in that of the map, of 4, 2, 1 and 0.5. With patches of 16 pixels the
            default gives the strides 4, 8, 16, 32; with patches of 14 they are 3.5, 7, 14, 28.
        num_outs: Number of outputs; those behind ``scales`` halve the last one.

    Raises:
        UserError: A scale is none of these, or there are more scales than outputs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        num_outs: int = 5,
    ) -> None:
        super().__init__()
        if not scales or not set(scales) <= {4, 2, 1, 0.5} or num_outs < len(scales):
            raise UserError(
                f"scales={tuple(scales)}, num_outs={num_outs} of vpeft.SimpleFeaturePyramid: scales are of 4, 2, 1 "
                "and 0.5, and num_outs is their number or more."
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.scales, self.num_outs = tuple(scales), num_outs
        self.stages = nn.ModuleList(self._stage(scale) for scale in scales)

    def _stage(self, scale: float) -> nn.Sequential:
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if scale == 0.5 else []
        width = self.in_channels
        while scale > 1:
            if layers:
                layers += [ChannelNorm(width, eps=1e-6), nn.GELU()]
            layers.append(nn.ConvTranspose2d(width, width // 2, 2, 2))
            width, scale = width // 2, scale / 2
        for size in (1, 3):
            layers.append(nn.Conv2d(width, self.out_channels, size, padding=size // 2, bias=False))
            layers.append(ChannelNorm(self.out_channels, eps=1e-6))
            width = self.out_channels
        return nn.Sequential(*layers)

    def strides(self, stride: float) -> list[float]:
        """Strides of the outputs where the map has the stride ``stride``."""
        found = [stride / scale for scale in self.scales]
        return found + [found[-1] * 2 ** (i + 1) for i in range(self.num_outs - len(found))]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The backbone's maps, of which the last is read, to ``num_outs`` maps ``(B, out_channels, h, w)``."""
        outs = [stage(maps[-1]) for stage in self.stages]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)
