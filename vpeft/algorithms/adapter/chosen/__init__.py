"""Bottlenecks that see a chosen part: of the channels, of the tokens."""

from vpeft.algorithms.adapter.chosen import dyt, sct  # noqa: F401  (register)
