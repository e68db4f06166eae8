"""Hosts of mmseg."""

from vpeft.core.backbones.hosts.mmseg import beit, swin, vit  # noqa: F401  (register)
