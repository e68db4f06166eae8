"""Hosts of timm."""

from vpeft.core.backbones.hosts.timm import (  # noqa: F401  (register)
    convnext,
    eva,
    hiera,
    hieradet,
    pvt_v2,
    relpos,
    sam,
    swin,
    swinv2,
    vit,
)
