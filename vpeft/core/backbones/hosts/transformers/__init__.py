"""Hosts of transformers."""

from vpeft.core.backbones.hosts.transformers import swin, swinv2, vit  # noqa: F401  (register)
