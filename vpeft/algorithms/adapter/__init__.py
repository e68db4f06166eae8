"""Methods that add bottleneck modules to a block."""

from vpeft.algorithms.adapter import (  # noqa: F401  (register)
    adapter,
    adaptformer,
    arc,
    convpass,
    dyt,
    lorand,
    mona,
    sct,
    snf,
)
