"""Down, activation, up."""

from vpeft.algorithms.adapter.bottleneck import adaptformer, houlsby_pfeiffer  # noqa: F401  (register)
