"""Attaching methods to the backbones that a model contains."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.base_weights import NEVER
from vpeft.core.adaptation.find import adaptations
from vpeft.core.adaptation.report import trained_outside
from vpeft.core.adaptation.values.base_dtype import named_base_dtype
from vpeft.core.adaptation.values.precision import named_dtype
from vpeft.core.backbones.block import full_name
from vpeft.core.backbones.find import hosts_in, read_host, why_no_host
from vpeft.core.backbones.found import FoundHost
from vpeft.core.backbones.generic import read_generic
from vpeft.core.backbones.probing.attempt import try_pass
from vpeft.core.backbones.weights.remembered import RememberedWeights, remembered_weights
from vpeft.core.backbones.wrappers import named_modules, unwrap
from vpeft.core.contract.checks import without_blocks
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import nearest

#: So many parts that train outside the backbone are named.
_NAMED = 4


def attach(
    model: nn.Module,
    methods: Sequence[Method],
    backbone: str | Sequence[str] | None = None,
    dtype: torch.dtype | str | None = None,
    sample: Any = None,
    base_dtype: Any = None,
) -> list[Adaptation]:
    """Attach methods to a backbone in ``model``, or to each of several.

    Where no host reads the model, or the part of it that ``backbone`` names, the generic host does
    (:mod:`vpeft.core.backbones.generic`), which one log line says.

    Args:
        model: A model that contains a host; wrappers around it or in it are looked through.
        methods: The methods. Each backbone gets its own.
        backbone: Dotted name of the backbone, or of a module that contains one; a list adapts several. May be left out
            where there is one backbone.
        dtype: Precision of the adapter; None means the base's, but float32 on a half base.
        sample: For the generic host, a call of the model: a tensor, a tuple of arguments, a dict of keywords, or a
            function of the model. None guesses an image. Where a host reads the model, it is not looked at.
        base_dtype: Precision that the frozen base is kept in from now on
            (:mod:`vpeft.core.adaptation.values.base_dtype`); None leaves it as it is.

    Returns:
        The adaptations, in the order of the names.

    Raises:
        UserError: Something is attached already, there are several backbones and none is named, or no host is found and
            a method needs blocks or no call can be watched. The model is left as it was.
    """
    modules, placed = dict(named_modules(model)), []
    hosts = hosts_in(model, modules)
    names, dtype = _chosen(model, modules, hosts, backbone), named_dtype(dtype)
    base_dtype = named_base_dtype(base_dtype)
    if any(name not in hosts for name in names):
        _check_generic(model, methods)
    try:
        for name in names:
            host = read_host(hosts[name]) if name in hosts else read_generic(model, name, sample)
            adaptation = Adaptation(host, copy.deepcopy(methods) if len(names) > 1 else methods, dtype, base_dtype)
            base = {p.name: p.param for p in adaptation.params}
            remembered = remembered_weights(modules, name, base)
            adaptation.place()
            if adaptation.lowered is not None:
                adaptation.lowered.around(module for other, module in modules.items() if _holds(other, name))
            placed.append(adaptation)
            if isinstance(host, FoundHost):
                try_pass(host)
            if remembered is not None:
                _say_where_from(adaptation, remembered)
    except Exception:
        for adaptation in placed:
            adaptation.detach()
        raise
    _say_what_stays(hosts)
    _say_what_is_around(model, hosts)
    for adaptation in placed:
        _say_what_does_not_fit(model, adaptation)
    return placed


def backbone_names(model: nn.Module) -> list[str]:
    """Dotted names of the backbones in ``model`` that methods can be attached to (empty for the model itself)."""
    return list(hosts_in(model))


def _chosen(
    model: nn.Module,
    modules: dict[str, nn.Module],
    hosts: dict[str, nn.Module],
    backbone: str | Sequence[str] | None,
) -> list[str]:
    """Names of the backbones that are to be adapted."""
    attached = {name for name, module in modules.items() if "peft_adaptation" in vars(module)}
    if backbone is None:
        if attached and len(hosts) <= len(attached):
            raise UserError("a method is attached to this model already: vpeft.detach(model) first, or give a list.")
        if len(hosts) > 1:
            found = ", ".join(
                f"{name} ({full_name(type(module))}{', adapted already' if name in attached else ''})"
                for name, module in hosts.items()
            )
            raise UserError(
                f"this {type(model).__name__} contains {len(hosts)} backbones: {found}. Say which to adapt "
                f"(backbone={next(name for name in hosts if name not in attached)!r}, or a list of names)."
            )
        return list(hosts) or [""]
    parts = {name for name, module in modules.items() if module._modules}
    names = [_named(hosts, name, parts) for name in ([backbone] if isinstance(backbone, str) else backbone)]
    if not names or len(set(names)) != len(names):
        raise UserError(f"backbone={backbone!r} must name at least one backbone, each once.")
    if again := sorted(one for one in attached for name in names if _inside(one, name) or _inside(name, one)):
        raise UserError(
            f"a method is attached to {', '.join(again)} already: detach it first, or give a list of methods."
        )
    return names


def _check_generic(model: nn.Module, methods: Sequence[Method]) -> None:
    """Refuse methods that need blocks, and a model that is a single layer, before any pass is tried."""
    blocks = [method.registered_name() for method in methods if method.needs_blocks]
    if blocks or not methods or not unwrap(model)._modules:
        needs = f" {', '.join(blocks)} needs blocks." if blocks else ""
        raise UserError(
            f"{why_no_host(model)}{needs} Methods that attach to any other network, by its linears, convolutions and "
            f"norms: {', '.join(without_blocks())} (docs/hosts.md)."
        )


def _holds(other: str, name: str) -> bool:
    return other != name and _inside(name, other)


def _inside(name: str, part: str) -> bool:
    return name == part or not part or name.startswith(f"{part}.")


def _named(hosts: dict[str, nn.Module], name: str, parts: Collection[str]) -> str:
    inside = [host for host in hosts if host == name or host.startswith(f"{name}.")]
    if name in inside:
        return name
    if len(inside) > 1:
        raise UserError(f"backbone={name!r} contains {len(inside)} backbones: name one of {', '.join(inside)}.")
    if not inside and name in parts:
        return name
    if not inside:
        raise UserError(f"backbone={name!r} is no backbone that can be adapted: {nearest(name, hosts)}")
    return inside[0]


def _say_where_from(adaptation: Adaptation, weights: RememberedWeights) -> None:
    """Tell an adaptation what was loaded into its base before."""
    if weights.file is None:
        adaptation.base.start(NEVER)
    else:
        adaptation.base.loaded(weights.file, None, weights.prefix)


def _say_what_stays(hosts: dict[str, nn.Module]) -> None:
    """Say, once, how much of the backbones that were not named stays trainable."""
    free = {
        name: sum(p.numel() for p in module.parameters() if p.requires_grad)
        for name, module in hosts.items()
        if "peft_adaptation" not in vars(module)
    }
    if any(free.values()):
        sizes = ", ".join(f"{name} ({size:,} parameters)" for name, size in free.items() if size)
        print_log(
            f"not adapted and trainable as before: {sizes}. Freeze it (requires_grad_(False)), or name it too.",
            logger="current",
            level=logging.WARNING,
        )


def _say_what_does_not_fit(model: nn.Module, adaptation: Adaptation) -> None:
    """Say where a head outside the backbone takes as many features as the host gives, and a method gives others."""
    host, methods = adaptation.host, adaptation.methods.values()
    widths = {m.registered_name(): width for m in methods if (width := m.out_width(host)) is not None}
    own = host.blocks[-1].dim if widths else 0
    if own in (0, *widths.values()):
        return
    inside = {*host.backbone.modules()}
    takes = {name: getattr(m, "in_features", None) for name, m in named_modules(model) if m not in inside}
    # Of a token, or of a token and the mean beside it.
    head = next((name for name, size in takes.items() if size in (own, 2 * own)), None)
    for name, width in widths.items() if head is not None else ():
        size = takes[head]
        print_log(
            f"{name} gives {width} features in the place of {own}: {head} takes {size}, and must be made anew for "
            f"{size // own * width}.",
            logger="current",
            level=logging.WARNING,
        )


def _say_what_is_around(model: nn.Module, hosts: dict[str, nn.Module]) -> None:
    """Say, in one line, what trains outside the backbones (head, neck, text tower), with its share of the model."""
    if "" in hosts:  # nothing lies around a model that is the backbone
        return
    backbones = {f"{name}." if name else "" for name, module in hosts.items()} | adaptations(model).keys()
    sizes = trained_outside(model, backbones)
    free = {name: size for name, size in sizes.items() if not f"{name}.".startswith(tuple(backbones))}
    if free:
        whole = sum(param.numel() for param in model.parameters())
        most = sorted(free, key=free.__getitem__, reverse=True)
        named = ", ".join(f"{name} ({100 * free[name] / whole:.2g} %)" for name in most[:_NAMED])
        more = f" and {len(most) - _NAMED} more" if len(most) > _NAMED else ""
        print_log(
            f"trainable as before, outside the backbone: {named}{more} of the model's {whole:,} parameters.",
            logger="current",
        )
