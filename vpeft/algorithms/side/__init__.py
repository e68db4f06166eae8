"""Methods with a small network beside the backbone."""

from vpeft.algorithms.side import dtl, e3va, hst, last, lst, vqt  # noqa: F401  (register)
