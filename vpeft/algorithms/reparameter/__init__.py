"""Methods whose change of the weights can be merged into them."""

from vpeft.algorithms.reparameter import lora, ssf  # noqa: F401  (register)
