"""Datasets, hosts, the life of an adapter on a host, hooks, optimiser groups."""

from vpeft.core import backbones, datasets, hooks, optim  # noqa: F401  (register)
