"""Hosts of mmaction2."""

from vpeft.core.backbones.hosts.mmaction import (  # noqa: F401  (register)
    mvit,
    timesformer,
    uniformerv2,
    video_swin,
    videomae,
)
