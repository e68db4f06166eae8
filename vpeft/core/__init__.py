"""Datasets, hosts, the life of an adapter on a host, hooks, optimiser groups."""

from vpeft.core.datasets.classification import imagenet as robustness  # noqa: F401  (register)
from vpeft.core.models import embedding_head  # noqa: F401  (register)
