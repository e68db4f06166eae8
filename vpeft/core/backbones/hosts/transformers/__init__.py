"""Hosts of transformers."""

from vpeft.core.backbones.hosts.transformers import (  # noqa: F401  (register)
    aimv2,
    beit,
    clip,
    convnext,
    dinov3,
    pyramid,
    sam,
    sam2,
    swin,
    swinv2,
    towers,
    vit,
    vitdet,
    vjepa2,
)
