"""Methods that train a chosen part of the existing parameters."""

from vpeft.algorithms.specification import baselines, bitfit, ln_tune  # noqa: F401  (register)
