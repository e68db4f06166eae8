"""Hosts of timm."""

from vpeft.core.backbones.hosts.timm import convnext, eva, hieradet, relpos, sam, swin, swinv2, vit  # noqa: F401  (register)
