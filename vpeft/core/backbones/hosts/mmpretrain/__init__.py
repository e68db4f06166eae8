"""Hosts of mmpretrain."""

from vpeft.core.backbones.hosts.mmpretrain import swin, vit  # noqa: F401  (register)
