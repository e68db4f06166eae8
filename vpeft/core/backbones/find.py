"""Which host reads a model."""

from __future__ import annotations

from torch import nn

from vpeft.core.backbones.block import full_name
from vpeft.core.backbones.found import FoundHost, found_in
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.wrappers import named_modules
from vpeft.errors import UserError
from vpeft.registry import HOSTS


def hosts_in(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of ``model`` that a registered host reads, by their names in the plain model.

    Where there is none, the one that is found by its blocks (:func:`found_in`).

    Raises:
        UserError: As :func:`found_in`.
    """
    targets = _targets()
    known = {name: module for name, module in named_modules(model) if full_name(type(module)) in targets}
    return known or found_in(model)


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
    return f"no host found in {type(model).__name__}.{hint} Hosts: {', '.join(sorted(HOSTS.module_dict))}."


def read_host(backbone: nn.Module) -> Host:
    """The host of a module that is one (:func:`hosts_in`)."""
    return _targets().get(full_name(type(backbone)), FoundHost)(backbone)


def _targets() -> dict[str, type[Host]]:
    return {target: host for host in HOSTS.module_dict.values() for target in host.targets}
