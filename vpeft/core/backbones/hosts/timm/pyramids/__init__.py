"""Hosts of timm whose map shrinks from stage to stage, in blocks of their own."""

from vpeft.core.backbones.hosts.timm.pyramids import focalnet, mvitv2, nest  # noqa: F401  (register)
