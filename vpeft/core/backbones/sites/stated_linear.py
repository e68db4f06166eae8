"""Linears whose weights a backbone uses without calling a module."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class StatedLinear:
    """A linear whose weights a backbone uses without calling a module: its block's re-stated forward runs the site.

    Args:
        weight: Where its weight ``(out, in)`` is: the module that holds it, and the name there.
        *biases: The same of every part of its bias along the output, in order; None for a part that is always zero.
    """

    def __init__(self, weight: tuple[nn.Module, str], *biases: tuple[nn.Module, str] | None) -> None:
        self._weight, self._biases = weight, biases
        self.out_features, self.in_features = self.weight.shape

    @property
    def holders(self) -> list[nn.Module]:
        """The modules that hold its weight and the parts of its bias."""
        return [module for module, _ in (self._weight, *filter(None, self._biases))]

    @property
    def weight(self) -> nn.Parameter:
        """``(out, in)``, as the module holds it now."""
        return getattr(*self._weight)

    @property
    def biases(self) -> tuple[nn.Parameter | None, ...]:
        """The parts of its bias, in order; None for a part that is always zero."""
        return tuple(None if part is None else getattr(*part) for part in self._biases)

    @property
    def bias(self) -> Tensor | None:
        """The whole bias ``(out,)``, None where it has none."""
        if all(part is None for part in self.biases):
            return None
        zeros = self.weight.new_zeros(self.out_features // len(self.biases))
        return torch.cat([zeros if part is None else part for part in self.biases])

    def parameters(self) -> Iterator[nn.Parameter]:
        """Weight and parts of the bias that exist."""
        yield self.weight
        yield from (part for part in self.biases if part is not None)


def bias_size(module: nn.Module | StatedLinear) -> int:
    """How many numbers the bias of a linear, convolution or norm has as parameters."""
    parts = module.biases if isinstance(module, StatedLinear) else (getattr(module, "bias", None),)
    return sum(part.numel() for part in parts if part is not None)
