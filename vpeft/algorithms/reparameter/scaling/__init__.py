"""Scales and shifts of what passes."""

from vpeft.algorithms.reparameter.scaling import ia3, rlrr, ssf  # noqa: F401  (register)
