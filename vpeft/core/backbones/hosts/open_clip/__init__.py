"""Hosts of open_clip."""

from vpeft.core.backbones.hosts.open_clip import vit  # noqa: F401  (register)
