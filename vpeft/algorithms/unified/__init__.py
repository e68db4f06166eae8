"""Methods that join several categories."""

from vpeft.algorithms.unified import bapat  # noqa: F401  (register)
