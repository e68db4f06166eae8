"""Hosts and the sites through which methods reach them."""

from vpeft.core.backbones import (  # noqa: F401  (register)
    adapted,
    mmaction_swin,
    mmaction_vit,
    mmdet_swin,
    mmpretrain_swin,
    mmpretrain_vit,
    mmseg_swin,
    mmseg_vit,
    timm_swin,
    timm_vit,
)
from vpeft.core.backbones.host import Block, Host, HostParam, find_host
from vpeft.core.backbones.sites import Flow, Site

__all__ = ["Block", "Flow", "Host", "HostParam", "Site", "find_host"]
