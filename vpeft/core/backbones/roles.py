"""What a parameter of a backbone does: by the site that it is used at, else by the form of its module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.core.backbones.wrappers import named_modules

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
