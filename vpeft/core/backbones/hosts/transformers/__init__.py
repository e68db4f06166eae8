"""Hosts of transformers."""

from vpeft.core.backbones.hosts.transformers import sam, swin, swinv2, vit, vitdet  # noqa: F401  (register)
