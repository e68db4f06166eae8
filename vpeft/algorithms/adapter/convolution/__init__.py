"""Bottlenecks that convolve the map of tokens."""

from vpeft.algorithms.adapter.convolution import convpass, mona  # noqa: F401  (register)
