"""Hosts of torchvision."""

from vpeft.core.backbones.hosts.torchvision import vit  # noqa: F401  (register)
