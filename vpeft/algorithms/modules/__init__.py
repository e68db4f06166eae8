"""Blocks that several methods share."""

from vpeft.algorithms.modules.bottleneck import Bottleneck
from vpeft.algorithms.modules.scale_shift import ScaleShift

__all__ = ["Bottleneck", "ScaleShift"]
