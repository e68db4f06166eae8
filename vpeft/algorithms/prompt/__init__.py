"""Methods that add tokens to the stream."""

from vpeft.algorithms.prompt import vfpt, vpt  # noqa: F401  (register)
