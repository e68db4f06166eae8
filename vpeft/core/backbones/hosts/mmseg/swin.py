"""mmseg's SwinTransformer: the same as mmdet's under other names."""

from __future__ import annotations

from vpeft.core.backbones.hosts.mmdet.swin import MMDetSwin
from vpeft.registry import HOSTS


@HOSTS.register_module(name="mmseg.SwinTransformer")
class MMSegSwin(MMDetSwin):
    """mmseg ``SwinTransformer``; its outputs are maps for a decode head."""

    targets = ("mmseg.models.backbones.swin.SwinTransformer",)
