"""Hosts of mmaction2."""

from vpeft.core.backbones.hosts.mmaction import video_swin, videomae  # noqa: F401  (register)
