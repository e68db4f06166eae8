"""Scales and shifts of what passes."""

from vpeft.algorithms.reparameter.scaling import ia3, ssf  # noqa: F401  (register)
