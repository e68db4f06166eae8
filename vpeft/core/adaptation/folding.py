"""Folding affine modules into the weights of their site.

A placed module that is affine in its input says so by ``affine() -> (M, m)``: ``f(x) = M x + m`` with ``M`` None
(identity; zero for ``parallel``), a vector (diagonal) or a matrix, and ``m`` None or a vector. Where the operation is
``y = W x + b``,

* ``before``: ``W <- W M``, ``b <- b + W m``;
* ``after``: ``W <- M W``, ``b <- M b + m``;
* ``parallel``: ``W <- W + M``, ``b <- b + m``.

Everything is computed in float64.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from vpeft.core.backbones.kept.few_bits import dense
from vpeft.core.backbones.kept.masters import as_held
from vpeft.core.backbones.sites.site import Placed, Site
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.errors import UserError

Affine = tuple[Tensor | None, Tensor | None]


@torch.no_grad()
@as_held()
def fold_site(site: Site, new: dict[int, Tensor]) -> list[Placed]:
    """Fold what can be folded at ``site``.

    Args:
        site: The site.
        new: New values by the parameters' ``id``; read and extended, so that folds of several sites add up.

    Returns:
        The entries that were folded.
    """
    target, scale = site, None
    if site.module is None:
        if site.fold is None or not site.entries:
            return []
        target, scale = site.fold
        if any(e.placement != "before" and not hasattr(e.module, "affine") for e in target.entries):
            return []  # something that stays stands between the linear and this place
    module = target.module
    if not any(hasattr(e.module, "affine") for e in site.entries):
        return []
    weight, bias = _weight(module, new), _bias(module, new)
    shape = weight.shape
    weight = weight.flatten(1) if isinstance(module, nn.modules.conv._ConvNd) else weight
    found, folded = _foldable(site), []
    # A position table that is added next takes the shift, where nothing stays between the two.
    spare = bias is None and target.table is not None and len(found) == sum(e.active for e in site.entries)
    bias = weight.new_zeros(len(weight)) if spare else bias
    for entry in found:
        matrix, shift = (None if t is None else t.detach().double() for t in entry.module.affine())
        if scale is not None:
            matrix, shift = _through_scale(matrix, shift, _value(_scale_parameter(scale), new).flatten())
        if shift is not None and bias is None:
            raise UserError(
                f"{entry.key} shifts the output of site {site.name!r}, whose module has no bias to merge the shift "
                "into: it cannot be merged on this host."
            )
        weight, bias = _fold(entry.placement, matrix, shift, weight, bias)
        folded.append(entry)
    if folded:
        _keep_weight(module, weight.reshape(shape), new)
        if spare:
            _into_table(target.table, bias, new)
        elif bias is not None:
            _keep_bias(site, module, bias, new)
    return folded


def _weight(module: nn.Module | StatedLinear, new: dict[int, Tensor]) -> Tensor:
    if not isinstance(module, StatedLinear):
        return _value(module.weight, new)
    return module.arranged(torch.cat([_value(part, new) for part in module.weights]))


def _keep_weight(module: nn.Module | StatedLinear, weight: Tensor, new: dict[int, Tensor]) -> None:
    if not isinstance(module, StatedLinear):
        new[id(module.weight)] = weight.view(module.weight.shape)
        return
    parts, weight = module.weights, module.restored(weight)
    values = weight.split([part.shape[0] for part in parts]) if len(parts) > 1 else [weight]
    for part, value in zip(parts, values, strict=True):
        new[id(part)] = module.into(_value(part, new), value)


def _into_table(table: tuple[nn.Parameter, int], shift: Tensor, new: dict[int, Tensor]) -> None:
    param, first = table
    if shift.any():
        value = _value(param, new).clone()
        value[..., first:, :] += shift
        new[id(param)] = value


def _bias(module: nn.Module | StatedLinear, new: dict[int, Tensor]) -> Tensor | None:
    if not isinstance(module, StatedLinear) or module.bias is None:
        return _value(getattr(module, "bias", None), new)
    device = module.weights[0].device
    zeros = (torch.zeros(rows, dtype=torch.float64, device=device) for rows in module.bias_rows)
    parts = zip(module.biases, zeros, strict=True)
    bias = module.arranged(torch.cat([zero if part is None else _value(part, new) for part, zero in parts]))
    bias[slice(*module.void)] = 0
    return bias


def _keep_bias(site: Site, module: nn.Module | StatedLinear, bias: Tensor, new: dict[int, Tensor]) -> None:
    stated = isinstance(module, StatedLinear)
    parts = module.biases if stated else (module.bias,)
    void = stated and bias[slice(*module.void)].any()
    bias = module.restored(bias) if stated else bias
    values = (bias,) if len(parts) == 1 else bias.split(module.bias_rows)
    for number, (part, value) in enumerate(zip(parts, values, strict=True)):
        if part is not None and not void:
            new[id(part)] = module.into(_value(part, new), value) if stated else value
        elif value.any() and not (number == 1 and _keys_shift_freely(site)):
            placed = [] if site.keys is None else site.keys.entries
            names = ", ".join(sorted({entry.key for entry in placed})) or "the attention itself"
            raise UserError(
                f"a part of the linears of site {site.name!r} has no bias to merge a shift into (keys, as a rule), and "
                f"{names} reads or changes keys, so that the shift matters: merge without it."
            )


def _keys_shift_freely(site: Site) -> bool:
    return site.keys is not None and not site.keys.entries


def _foldable(site: Site) -> list[Placed]:
    """Entries next to the operation up to the first that is not affine: those behind it, then those before it.

    What stands before it is seen by every ``parallel`` module too, so it folds last, and only where no such module
    stays in place.
    """
    active = [e for e in site.entries if e.active]
    behind = [e for e in active if e.placement in ("parallel", "after")]
    found = _affine_run(site, behind)
    if not any(e.placement == "parallel" for e in behind[len(found) :]):
        found = found + _affine_run(site, [e for e in reversed(active) if e.placement == "before"])
    return found


def _affine_run(site: Site, entries: list[Placed]) -> list[Placed]:
    def folds(entry: Placed) -> bool:
        return hasattr(entry.module, "affine") and (site.module is not None or entry.placement == "after")

    return list(itertools.takewhile(folds, entries))


def _value(param: Tensor | None, new: dict[int, Tensor]) -> Tensor | None:
    return None if param is None else new.get(id(param), dense(param.detach()).double())


def _scale_parameter(scale: nn.Module | nn.Parameter) -> Tensor:
    if isinstance(scale, nn.Parameter):
        return scale
    (param,) = scale.parameters()
    return param


def _through_scale(matrix: Tensor | None, shift: Tensor | None, scale: Tensor) -> Affine:
    """``M diag(g) y + m`` as ``diag(g) (M' y + m')``."""
    if matrix is not None and matrix.dim() == 2:
        matrix = matrix * scale / scale[:, None]
    return matrix, None if shift is None else shift / scale


def _fold(
    placement: str, matrix: Tensor | None, shift: Tensor | None, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    if weight.dim() == 1:  # a norm: W is diagonal
        if placement != "after" or (matrix is not None and matrix.dim() != 1):
            raise UserError("only a scale and shift after a norm can be merged into it.")
        matrix = torch.ones_like(weight) if matrix is None else matrix
        return matrix * weight, _add(None if bias is None else matrix * bias, shift)
    if placement == "before":
        shift = None if shift is None else weight @ shift
        weight = weight if matrix is None else weight * matrix if matrix.dim() == 1 else weight @ matrix
        return weight, _add(bias, shift)
    if placement == "parallel":
        matrix = matrix if matrix is None or matrix.dim() == 2 else torch.diag(matrix)
        return weight if matrix is None else weight + matrix, _add(bias, shift)
    if matrix is not None:
        matrix = matrix if matrix.dim() == 2 else torch.diag(matrix)
        weight, bias = matrix @ weight, None if bias is None else matrix @ bias
    return weight, _add(bias, shift)


def _add(bias: Tensor | None, shift: Tensor | None) -> Tensor | None:
    if shift is None:
        return bias
    return shift if bias is None else bias + shift
