"""Hosts of torchvision."""

from vpeft.core.backbones.hosts.torchvision import swin, vit  # noqa: F401  (register)
