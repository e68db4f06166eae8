"""Methods that change the keys and values of attention."""

from vpeft.algorithms.prefix import patt, prefix  # noqa: F401  (register)
