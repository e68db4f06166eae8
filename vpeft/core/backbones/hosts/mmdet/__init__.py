"""Hosts of mmdet."""

from vpeft.core.backbones.hosts.mmdet import pvt, swin  # noqa: F401  (register)
