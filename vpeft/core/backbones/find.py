"""Which host reads a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from vpeft.core.backbones.block import full_name
from vpeft.core.backbones.found import FoundHost, found_in
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.libraries import library, library_of
from vpeft.core.backbones.wrappers import named_modules, unwrap
from vpeft.errors import UserError
from vpeft.registry import HOSTS

#: So many models of another library are built, without memory, before an error says that none is known.
_LOOKED_AT = 3


def hosts_in(model: nn.Module, modules: Mapping[str, nn.Module] | None = None) -> dict[str, nn.Module]:
    """The modules of ``model`` that a registered host reads, by their names in the plain model.

    Where there is none, the one that is found by its blocks (:func:`found_in`).

    Args:
        model: The model.
        modules: Its modules by these names, where they are known already.

    Raises:
        UserError: As :func:`found_in`, or it is a class that its library runs wrongly (:attr:`Host.refused`).
    """
    targets, every = _targets(), named_modules(model) if modules is None else modules.items()
    known = {name: module for name, module in every if full_name(type(module)) in targets}
    if not known:
        _refuse_wrong(model)
    return known or found_in(model)


def _refuse_wrong(model: nn.Module) -> None:
    reasons = {cls: why for host in HOSTS.module_dict.values() for cls, why in host.refused.items()}
    for name, module in named_modules(model):
        if why := reasons.get(full_name(type(module))):
            raise UserError(f"{name or 'the model'} is a {type(module).__name__}, and {why}.")


def find_host(model: nn.Module) -> Host:
    """The host of the first submodule of ``model`` that a registered host reads, else of the one found by its blocks.

    Raises:
        UserError: There is none; the message lists the hosts.
    """
    for module in hosts_in(model).values():
        return read_host(module)
    raise UserError(f"{why_no_host(model)} A new host is one file: docs/hosts.md.")


def why_no_host(model: nn.Module) -> str:
    """That no registered host reads a model, which hosts there are, and which it nearly is."""
    targets = _targets()
    near = [
        f"{name or 'the model'} ({full_name(type(module))}) derives from {full_name(base)} but is not it"
        for name, module in named_modules(model)
        for base in type(module).__mro__[1:]
        if full_name(base) in targets
    ]
    hint = f" {near[0]}." if near else ""
    if (found := _same_weights(model)) is not None:
        hint += f" {found[0]} has weights of the same name and a host ({found[1]}): vpeft.load_backbone({found[0]!r})."
    return f"no host found in {type(model).__name__}.{hint} Hosts: {', '.join(sorted(HOSTS.module_dict))}."


def _same_weights(model: nn.Module) -> tuple[str, str] | None:
    """Of the models whose published weights have the same name one that a host reads: its name and the host's."""
    of, targets = library_of(unwrap(model)), _targets()
    for name in of.elsewhere(unwrap(model), targets)[:_LOOKED_AT] if of is not None else ():
        prefix, _, own_name = name.partition("/")
        with torch.device("meta"):
            cls = full_name(type(library(prefix).build(own_name, False)))
        if cls in targets:
            return name, next(host for host, kind in HOSTS.module_dict.items() if kind is targets[cls])
    return None


def read_host(backbone: nn.Module) -> Host:
    """The host of a module that is one (:func:`hosts_in`)."""
    return _targets().get(full_name(type(backbone)), FoundHost)(backbone)


def _targets() -> dict[str, type[Host]]:
    return {target: host for host in HOSTS.module_dict.values() for target in host.targets}
