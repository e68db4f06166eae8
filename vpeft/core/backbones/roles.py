"""What a parameter of a backbone does: by the site that it is used at, else by the form of its module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from vpeft.core.backbones.block import Block, HostParam
from vpeft.core.backbones.kept.masters import as_held
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.core.backbones.wrappers import named_modules, unwrap

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)
_AFFINE = (nn.Linear, nn.modules.conv._ConvNd)
_OWN = {
    "relative_position_bias_table": "rel_pos_bias",
    "rel_pos_h": "rel_pos",
    "rel_pos_w": "rel_pos",
    "rel_pos_t": "rel_pos",
    "logit_scale": "logit_scale",
    "temperature": "logit_scale",
    **dict.fromkeys(("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"), "attn_lambda"),
}
_EPS = ("eps", "variance_epsilon")


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm: one of torch's, or one of that form (an epsilon, and at most a scale and a shift)."""
    if isinstance(module, _NORMS):
        return True
    own = {name: param for name, param in module._parameters.items() if param is not None}
    form = own and own.keys() <= {"weight", "bias"} and all(param.dim() == 1 for param in own.values())
    return bool(form) and not module._modules and any(isinstance(getattr(module, eps, None), float) for eps in _EPS)


def keepers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that keep running statistics of their inputs, as BatchNorm does, with their names."""
    for name, module in named_modules(network):
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            yield name, module


def role(module: nn.Module, name: str) -> str:
    """The role of a module's own parameter by the form of the module."""
    if isinstance(module, _AFFINE):  # most are, and telling a norm by its form takes longer
        return name
    if is_norm(module):
        return f"norm_{name}"
    return _OWN.get(name, "other")


def names_at_sites(sites: Iterable[tuple[str, nn.Module | StatedLinear]]) -> dict[int, str]:
    """The name of the site that uses each parameter, by the parameters' ``id``."""
    found: dict[int, str] = {}
    for name, module in sites:
        is_leaf = isinstance(module, nn.Module) and not module._modules  # most are; None among its own does no harm
        for param in module._parameters.values() if is_leaf else module.parameters():
            found[id(param)] = name
    return found


def roles_at_sites(
    sites: Iterable[tuple[str, nn.Module | StatedLinear]], scales: Iterable[nn.Module | nn.Parameter]
) -> dict[int, str]:
    """Roles, by the parameters' ``id``, of what sites use: parts of stated linears, norms, LayerScales."""
    found: dict[int, str] = {}
    for name, module in sites:
        if isinstance(module, StatedLinear):
            found |= {id(weight): "weight" for weight in module.weights}
            found |= {id(bias): "bias" for bias in module.biases if bias is not None}
        elif name.split(".")[0].endswith("norm") or name.split(".")[-1].startswith("norm"):
            found |= {id(param): f"norm_{own}" for own, param in module._parameters.items() if param is not None}
    for scale in scales:
        params = [scale] if isinstance(scale, nn.Parameter) else scale.parameters()
        found |= {id(param): "layer_scale" for param in params}
    return found


@as_held()
def existing_parameters(host: Any, left_out: str) -> list[HostParam]:
    """Every parameter of a host's backbone with its role, but its head's and those of modules named ``left_out``."""
    owners = {id(block.module): block for block in host.blocks}
    head = {id(m) for name in host.heads() for m in host.backbone.get_submodule(name).modules()}
    every = (host.sites, *(block.sites for block in host.blocks))
    modules = [(name, site.module) for named in every for name, site in named.items() if site.module is not None]
    scales = (scale for b in host.blocks for scale in b.kind.site_scales(b.module) if scale is not None)
    sites, roles = names_at_sites(modules), roles_at_sites(modules, scales)
    found: list[HostParam] = []  # no generators inside generators, which would cost more than the walk

    def walk(module: nn.Module, prefix: str, block: Block | None) -> None:
        module = unwrap(module) if module._modules else module
        if id(module) in head:
            return
        block = owners.get(id(module), block)
        for name, param in module._parameters.items():
            if param is not None:
                own = host.special.get(prefix + name) or roles.get(id(param)) or role(module, name)
                own = own if param.numel() else "unused"  # no number in it, as where there are no registers
                found.append(HostParam(prefix + name, param, own, block, sites.get(id(param))))
        for name, child in module._modules.items():
            if child is not None and name != left_out and (child._modules or child._parameters):
                walk(child, f"{prefix}{name}.", block)

    walk(host.backbone, "", None)
    return found
