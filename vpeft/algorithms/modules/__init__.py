"""Blocks that several methods share."""

from vpeft.algorithms.modules.bottleneck import Bottleneck
from vpeft.algorithms.modules.fixed import Fixed
from vpeft.algorithms.modules.scale_shift import ScaleShift
from vpeft.algorithms.modules.stateless import Stateless

__all__ = ["Bottleneck", "Fixed", "ScaleShift", "Stateless"]
