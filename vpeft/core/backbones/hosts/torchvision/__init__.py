"""Hosts of torchvision."""

from vpeft.core.backbones.hosts.torchvision import convnext, swin, vit  # noqa: F401  (register)
