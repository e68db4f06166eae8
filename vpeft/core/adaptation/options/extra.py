"""``extra=``: existing parameters that are trained and stored beside a method, by what they do."""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import Host
from vpeft.errors import UserError
from vpeft.registry import nearest

#: By name, roles of parameters (:mod:`vpeft.core.backbones.roles`); with ``blocks=`` those of the chosen blocks.
ROLES = {
    "norm": ("norm_weight", "norm_bias"),
    "bias": ("bias", "norm_bias"),
    "scale": ("layer_scale",),
    "temperature": ("logit_scale",),
    "table": ("rel_pos_bias", "rel_pos"),
    "pos-embed": ("pos_embed",),
    "cls-token": ("cls_token",),
}
#: By name, sites of the backbone whose parameters are meant, whatever ``blocks=`` says.
SITES = {"head-norm": ("norm.", "pool_norm"), "patch-embed": ("patch_embed", "patch_norm")}


def is_extra(p: HostParam, names: Sequence[str], part: Host) -> bool:
    """Whether a parameter is among those that ``names`` mean, on the part of a host that a method is in."""
    if p.role in ("unused", "neck", "shared"):
        return False
    at = tuple(start for name in names for start in SITES.get(name, ()))
    if at and p.block is None and p.site is not None and p.site.startswith(at):
        return True
    roles = {role for name in names for role in ROLES.get(name, ())}
    return p.role in roles and (part.part is None or part.part.owns(p.block, p.site))


def check_extra(names: Sequence[str], params: Sequence[HostParam], part: Host, method: str) -> None:
    """Refuse unknown names, and such of which the host has nothing.

    Raises:
        UserError: The name, and those that there are on this host.
    """
    known = {**ROLES, **SITES}
    for name in names:
        if name not in known:
            raise UserError(f"{method}: extra={list(names)!r}: {nearest(name, known)}")
        if not any(is_extra(p, [name], part) for p in params):
            has = [one for one in known if any(is_extra(p, [one], part) for p in params)]
            where = "its chosen blocks" if part.part is not None else f"this {part.registered_name()} host"
            raise UserError(f"{method}: extra={name!r}: {where} has none; it has {', '.join(has)}.")
    if len(set(names)) != len(names):
        raise UserError(f"{method}: extra={list(names)!r} names one twice.")
