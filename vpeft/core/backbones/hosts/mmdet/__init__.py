"""Hosts of mmdet."""

from vpeft.core.backbones.hosts.mmdet import swin  # noqa: F401  (register)
