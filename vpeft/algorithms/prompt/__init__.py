"""Methods that add tokens to the stream."""

from vpeft.algorithms.prompt import e2vpt, vfpt, vpt  # noqa: F401  (register)
