"""Methods that add bottleneck modules to a block, by the form of the module."""

from vpeft.algorithms.adapter import (  # noqa: F401  (register)
    bottleneck,
    chosen,
    convolution,
    shared,
    snf,
    temporal,
)
