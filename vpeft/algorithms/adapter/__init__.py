"""Methods that add bottleneck modules to a block."""

from vpeft.algorithms.adapter import (  # noqa: F401  (register)
    adapter,
    adaptformer,
    arc,
    convpass,
    lorand,
    mona,
    sct,
    snf,
)
