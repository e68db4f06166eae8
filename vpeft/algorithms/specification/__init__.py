"""Methods that train a chosen part of the existing parameters."""

from vpeft.algorithms.specification import (  # noqa: F401  (register)
    baselines,
    bitfit,
    diff_fit,
    gps,
    ln_tune,
    selective,
)
