"""Datasets, hosts, the life of an adapter on a host, hooks, optimiser groups."""

from vpeft.core import backbones, datasets, embedding_head, hooks, optim  # noqa: F401  (register)
from vpeft.core.datasets import robustness  # noqa: F401  (register)
