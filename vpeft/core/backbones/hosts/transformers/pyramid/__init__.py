"""Pyramids of transformers: an embedding per stage, keys of a reduced map."""

from vpeft.core.backbones.hosts.transformers.pyramid import segformer  # noqa: F401  (register)
