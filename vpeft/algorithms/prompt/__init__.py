"""Methods that add tokens to the stream."""

from vpeft.algorithms.prompt import e2vpt, pixel, vfpt, vpt  # noqa: F401  (register)
