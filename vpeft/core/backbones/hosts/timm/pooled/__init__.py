"""Hosts of timm whose class token stands behind the blocks and pools the map by an attention of its own."""

from vpeft.core.backbones.hosts.timm.pooled import cait, volo, xcit  # noqa: F401  (register)
