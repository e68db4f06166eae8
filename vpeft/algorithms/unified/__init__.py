"""Methods that join several categories."""

from vpeft.algorithms.unified import bapat, glora, noah, spt, u_tuning  # noqa: F401  (register)
