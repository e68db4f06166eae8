"""Methods with a small network beside the backbone."""

from vpeft.algorithms.side import (  # noqa: F401  (register)
    dtl,
    e3va,
    hst,
    last,
    lst,
    side_tuning,
    vit_adapter,
    vit_split,
    vqt,
)
