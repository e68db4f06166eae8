"""A part of a host: some of its blocks, and what leads to them.

What lies outside blocks goes with the block that it leads to: the patch embedding with the first, a patch merging with
the first of its stage; output norms go with the block that they read.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from vpeft.core.backbones.block import Block, HostParam
from vpeft.core.backbones.host import Host


@dataclass(frozen=True)
class Part:
    """Which part of a host.

    Attributes:
        host: The whole host.
        indices: Its blocks.
    """

    host: Host
    indices: frozenset[int]

    def owns(self, block: Block | None, site: str | None) -> bool:
        """Whether it holds a site, or a parameter of that block and site."""
        return home(self.host, block, site) in self.indices

    def parameters(self) -> Iterator[HostParam]:
        """The existing parameters of the part."""
        return (p for p in self.host.parameters() if self.owns(p.block, p.site))


def host_part(host: Host, blocks: Collection[Block], varies: str = "") -> Host:
    """The host as a method sees it that is in some of the blocks; the host itself where these are all.

    Args:
        host: The whole host.
        blocks: The blocks.
        varies: What differs from other blocks, as messages say it.
    """
    if len(blocks) == len(host.blocks):
        return host
    part = copy.copy(host)
    part.part = which = Part(host, frozenset(block.index for block in blocks))
    part.varies = varies
    part.blocks = [block for block in host.blocks if block.index in which.indices]
    part.sites = {name: site for name, site in host.sites.items() if which.owns(None, name)}
    part.modules = {name: module for name, module in host.modules.items() if which.owns(None, name)}
    return part


def home(host: Host, block: Block | None, site: str | None) -> int:
    """Index of the block that a site or a parameter goes with."""
    if block is not None or not host.blocks:
        return block.index if block is not None else 0
    if site is not None and site.startswith("norm."):
        return host.last_block(site).index
    if site == "pool_norm":
        return host.blocks[-1].index
    if site is not None and site.startswith("downsample"):
        stage = int(site.removeprefix("downsample").split(".")[0])
        return next((one.index for one in host.blocks if one.stage == stage), 0)
    return host.blocks[0].index
