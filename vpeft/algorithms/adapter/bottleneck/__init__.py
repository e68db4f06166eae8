"""Down, activation, up."""

from vpeft.algorithms.adapter.bottleneck import adapter_bias, adapter_plus, adaptformer, houlsby_pfeiffer  # noqa: F401  (register)
