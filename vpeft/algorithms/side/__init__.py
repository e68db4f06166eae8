"""Methods with a small network beside the backbone."""

from vpeft.algorithms.side import dtl, e3va, hst, last, lst, side_tuning, vit_split, vqt  # noqa: F401  (register)
