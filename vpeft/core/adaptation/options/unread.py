"""``skip_unread``: in training, tokens that nothing reads do not pass the MLP of the last block.

Where the head reads a class token, the map's tokens of the last block are keys and values of its attention and no more
(:mod:`vpeft.core.backbones.saving.read_alone`). It is a setting of training alone.
"""

from __future__ import annotations

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.contract.method import Method
from vpeft.errors import UserError


def reads_prefix_alone(host: Host) -> bool:
    """Whether only tokens before the map are read: what acts on the map in the last block changes no answer."""
    return bool(host.blocks) and host.prefix > 0 and not (host.pools_map or host.pools_tokens or host.reads_map)


def check_unread(method: Method, host: Host) -> None:
    """Refuse a host whose map is read, or whose last MLP looks at more than a token, and a method for which there is
    no gradient there.

    Raises:
        UserError: Why.
    """
    if not method.skip_unread:
        return
    name, here = f"{method.registered_name()}: skip_unread", f"this {host.registered_name()}"
    if not reads_prefix_alone(host):
        raise UserError(f"{name}: {here} gives on more than tokens ahead of the map: leave it out.")
    if method.memory == "M0":
        raise UserError(f"{name}: no gradient enters the backbone, and the method may read all tokens: leave it out.")
    block = host.blocks[-1]
    site = block.sites.get("mlp_branch")
    if block.kind.site_units is not SiteBlock.site_units or site is None or "around" not in site.allowed:
        raise UserError(f"{name}: the MLP of {here} does not run for each token by itself: leave it out.")


def put_unread(host: Host) -> None:
    """Let the last block's MLP run for what is read alone."""
    host.blocks[-1].sites["mlp_branch"].root = host.backbone


def need_alone(method: Method, host: Host, key: str) -> None:
    """Refuse two methods that place modules on the same backbone: some read all tokens, without a gradient.

    Args:
        method: One of them, which has just been placed.
        host: The host.
        key: Its key.

    Raises:
        UserError: One of them skips what the other may read.
    """
    if all(site.root is None for block in host.blocks[-1:] for site in block.sites.values()):
        return
    placed = {entry.key for site in host.every_site() for entry in site.entries}
    if placed - {key} if method.skip_unread else key in placed:
        raise UserError("skip_unread is for a method that stands alone, and here are several: leave it out.")
