"""Which backbones are there, and how are they read? Hosts and the sites through which methods reach them."""

from vpeft.core.backbones.block import Block, HostParam
from vpeft.core.backbones.find import find_host
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.site import Site

__all__ = ["Block", "Flow", "Host", "HostParam", "Site", "find_host"]
