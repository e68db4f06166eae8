"""Methods that join several categories."""

from vpeft.algorithms.unified import bapat, noah, u_tuning  # noqa: F401  (register)
