"""Modules that only move tensors."""

from __future__ import annotations

from torch import nn


class Stateless(nn.Module):
    """Base of placed modules without parameters of their own."""

    def reset_parameters(self) -> None:
        """It has no parameters."""
