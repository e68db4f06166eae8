"""What passes a site, shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.site import Placed, Site
from vpeft.errors import UserError


class StreamRecorder(nn.Module):
    """Shows every tensor that passes a site to ``look(x, flow)``."""

    def __init__(self, look: Callable[[Tensor, Flow], None]) -> None:
        super().__init__()
        self.look = look

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        self.look(x, flow)
        return x


@contextmanager
def record_streams(host: Host, looks: Iterable[tuple[Site, Callable[[Tensor, Flow], None]]]) -> Iterator[None]:
    """Within the context, everything placed is switched off, and what leaves some sites of the frozen host is shown.

    A site that is a module must have something placed ``after`` or ``parallel`` (or nothing hooks it).
    """
    every = [site for sites in (host.sites, *(b.sites for b in host.blocks)) for site in sites.values()]
    kept = [(entry, entry.active) for site in every for entry in site.entries]
    added = [(site, Placed("after", StreamRecorder(look), "recorder")) for site, look in looks]
    for entry, _ in kept:
        entry.active = False
    for site, entry in added:
        site.entries.insert(0, entry)
    try:
        yield
    finally:
        for site, entry in added:
            site.entries.remove(entry)
        for entry, active in kept:
            entry.active = active


def blocks_of(host: Host) -> list[Block]:
    """The blocks of a host, where something looks into them.

    Raises:
        UserError: It has none.
    """
    if not host.blocks:
        network = type(host.backbone).__name__
        raise UserError(f"the {host.registered_name()} host of {network} has no blocks to look into.")
    return host.blocks
