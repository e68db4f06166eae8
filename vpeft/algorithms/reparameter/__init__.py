"""Methods whose change of the weights can be merged into them."""

from vpeft.algorithms.reparameter import (  # noqa: F401  (register)
    fact,
    hydra,
    kadaptation,
    krona,
    lora,
    low_rank,
    rep_adapter,
    scaling,
    structured,
)
