"""Hosts of mmpretrain."""

from vpeft.core.backbones.hosts.mmpretrain import (  # noqa: F401  (register)
    beit,
    convnext,
    deit3,
    eva02,
    mvit,
    sam,
    swin,
    swinv2,
    vit,
)
