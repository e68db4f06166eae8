"""Hosts of mmseg."""

from vpeft.core.backbones.hosts.mmseg import swin, vit  # noqa: F401  (register)
