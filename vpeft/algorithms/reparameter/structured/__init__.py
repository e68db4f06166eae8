"""Updates of a weight that are neither of low rank nor free: products, sums and rotations of a few numbers."""

from vpeft.algorithms.reparameter.structured import (  # noqa: F401  (register)
    boft,
    consolidator,
    fourier_ft,
    loha,
    lokr,
    oft,
    snell,
)
