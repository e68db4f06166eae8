"""Datasets, hosts, the life of an adapter on a host, hooks, optimiser groups."""

from vpeft.core.datasets import robustness  # noqa: F401  (register)
from vpeft.core.models import embedding_head  # noqa: F401  (register)
