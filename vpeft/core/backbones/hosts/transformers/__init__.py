"""Hosts of transformers, by what their blocks hand on."""

from vpeft.core.backbones.hosts.transformers import maps, tokens  # noqa: F401  (register)
