"""Hosts of mmseg."""

from vpeft.core.backbones.hosts.mmseg import beit, mit, swin, vit  # noqa: F401  (register)
