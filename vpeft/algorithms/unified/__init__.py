"""Methods that join several categories."""

from vpeft.algorithms.unified import bapat, noah, noah_space, u_tuning  # noqa: F401  (register)
