"""The operation of a convolution with other weights than its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Convolution:
    """A convolution's stride, padding, dilation and groups, for kernels of its extents.

    Args:
        module: The convolution; only its settings are read.
    """

    def __init__(self, module: nn.modules.conv._ConvNd) -> None:
        self.settings = {"stride": module.stride, "dilation": module.dilation, "groups": module.groups}
        self.padding, self.mode = module.padding, module.padding_mode
        self.around = tuple(module._reversed_padding_repeated_twice)

    @property
    def groups(self) -> int:
        """Groups of its channels."""
        return self.settings["groups"]

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x`` (B, C, ...) convolved with ``weight`` (outputs, C / groups, ...), without a bias."""
        padding = self.padding
        if self.mode != "zeros":
            x, padding = F.pad(x, self.around, mode=self.mode), 0
        return convolve(x, weight, padding=padding, **self.settings)


def convolve(x: Tensor, weight: Tensor, **settings) -> Tensor:
    """``F.conv1d``, ``F.conv2d`` or ``F.conv3d``, by the weight's dimensions."""
    return {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.dim()](x, weight, **settings)
