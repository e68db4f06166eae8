"""Backbones of timm whose streams are sorted, padded or go through blocks of another form."""

from vpeft.core.backbones.hosts.timm.streams import hiera, naflexvit, parallel, pit  # noqa: F401  (register)
