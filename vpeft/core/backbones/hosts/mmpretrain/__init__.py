"""Hosts of mmpretrain."""

from vpeft.core.backbones.hosts.mmpretrain import (  # noqa: F401  (register)
    beit,
    convnext,
    eva02,
    sam,
    swin,
    swinv2,
    vit,
)
