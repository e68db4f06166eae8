"""Hosts of mmaction2."""

from vpeft.core.backbones.hosts.mmaction import timesformer, uniformerv2, video_swin, videomae  # noqa: F401  (register)
