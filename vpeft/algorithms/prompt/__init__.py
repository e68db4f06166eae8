"""Methods that add tokens to the stream."""

from vpeft.algorithms.prompt import cvpt, e2vpt, pixel, vfpt, vpt  # noqa: F401  (register)
