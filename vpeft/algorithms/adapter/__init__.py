"""Methods that add bottleneck modules to a block."""

from vpeft.algorithms.adapter import (  # noqa: F401  (register)
    adaptformer,
    arc,
    convpass,
    dyt,
    houlsby_pfeiffer,
    lorand,
    mona,
    sct,
    snf,
)
