"""Methods that add bottleneck modules to a block."""

from vpeft.algorithms.adapter import adapter, adaptformer, mona  # noqa: F401  (register)
