"""Hosts of timm."""

from vpeft.core.backbones.hosts.timm import (  # noqa: F401  (register)
    convnext,
    eva,
    hieradet,
    pooled,
    pvt_v2,
    pyramids,
    relpos,
    sam,
    stages,
    streams,
    swin,
    swinv2,
    vit,
)
