"""Hosts of timm."""

from vpeft.core.backbones.hosts.timm import swin, vit  # noqa: F401  (register)
