"""Hosts and the sites through which methods reach them."""

from vpeft.core.backbones import adapted, mmpretrain_swin, mmpretrain_vit, timm_swin, timm_vit  # noqa: F401  (register)
from vpeft.core.backbones.host import Block, Host, HostParam, find_host
from vpeft.core.backbones.sites import Flow, Site

__all__ = ["Block", "Flow", "Host", "HostParam", "Site", "find_host"]
