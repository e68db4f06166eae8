"""Backbones of timm with convolutions between or inside their blocks, in stages."""

from vpeft.core.backbones.hosts.timm.stages import (  # noqa: F401  (register)
    davit,
    levit,
    maxxvit,
)
