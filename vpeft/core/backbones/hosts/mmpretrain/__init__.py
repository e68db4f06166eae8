"""Hosts of mmpretrain."""

from vpeft.core.backbones.hosts.mmpretrain import sam, swin, swinv2, vit  # noqa: F401  (register)
