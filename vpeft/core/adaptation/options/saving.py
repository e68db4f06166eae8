"""``save_memory``: what the backward pass works out again in the place of keeping it.

``mlp``: the hidden layers of every block's MLP, from its normed input (:mod:`vpeft.core.backbones.saving.again`). It is
a setting of training alone: outputs and gradients stay what they are, and so do files and merging.
"""

from __future__ import annotations

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.contract.method import Method
from vpeft.errors import UserError


def check_saving(method: Method, host: Host) -> None:
    """Refuse a host without an MLP that may be run again, and a method that keeps nothing of it.

    Raises:
        UserError: Why.
    """
    if method.save_memory is None:
        return
    name = f"{method.registered_name()}: save_memory={method.save_memory!r}"
    here = f"this {host.registered_name()}"
    if not host.blocks:
        raise UserError(f"{name} runs the MLPs of blocks again, and {here} has no blocks: leave it out.")
    if method.memory == "M0" and not method.extra:
        raise UserError(f"{name} is of no use: no gradient enters the backbone, which keeps nothing. Leave it out.")
    if not any(_has_mlp(block.kind, block.sites) for block in host.blocks):
        raise UserError(f"{name}: the MLP of {here} is not one that can be run again by itself: leave it out.")


def put_saving(host: Host) -> None:
    """Let the MLP of every block be run again."""
    for block in host.blocks:
        if _has_mlp(block.kind, block.sites):
            block.sites["mlp_branch"].widths = block.size("fc1")[0], block.hidden


def _has_mlp(kind: type[SiteBlock], sites: dict) -> bool:
    """Whether a block runs its MLP through its branch's site, from first to last linear."""
    return kind.site_units is SiteBlock.site_units and all(name in sites for name in ("fc1", "fc2", "mlp_branch"))
