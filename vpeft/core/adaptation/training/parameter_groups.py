"""Parameter groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from vpeft.core.adaptation.find import adaptations
from vpeft.core.backbones.wrappers import unwrap
from vpeft.errors import UserError
from vpeft.registry import OPTIM_WRAPPER_CONSTRUCTORS, nearest

#: Existing parameters of several dimensions that are no weights of a map.
UNDECAYED_ROLES = ("pos_embed", "cls_token", "rel_pos_bias", "rel_pos")
RULES = ("vectors", "norms")
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
#: Keys of ``paramwise_cfg`` that mmengine's constructor reads, and those that it does not know.
PARAMWISE = frozenset(
    {
        *("custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult", "flat_decay_mult"),
        *("bypass_duplicate", "dcn_offset_lr_mult"),
    }
)
OWN_KEYS = frozenset({"backbone_lr_mult", "undecayed"})


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PEFTOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Gives the optimiser what is trained and nothing else, without weight decay where decay has no meaning.

    A module whose tensors learn at other rates says so by ``lr_factors``: factors by the names of its parameters, or of
    what holds them.

    No decay on vectors (biases, norms, scales and shifts), on modules that say ``weight_decay = False`` (prefixes), and
    on position tables and class tokens. ``paramwise_cfg`` works as in mmengine and goes before these rules; its key
    ``backbone_lr_mult`` multiplies the learning rate of the adapted backbone, PEFT modules included, and leaves that of
    necks and heads. Its key ``undecayed`` chooses the rule: ``vectors`` as above, or ``norms``, which leaves norms,
    position tables and class tokens alone and lets biases, scales and gammas decay as weights do (the rule of Mona's
    authors, whose gammas go from 1 to about 0.37 in 36 epochs of COCO).
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        for key in self.paramwise_cfg.keys() - PARAMWISE - OWN_KEYS:
            raise UserError(f"optim_wrapper.paramwise_cfg has no {key!r}: {nearest(key, PARAMWISE | OWN_KEYS)}")

    def __call__(self, model: nn.Module) -> OptimWrapper:
        model = unwrap(model)
        rule = self.paramwise_cfg.get("undecayed", RULES[0])
        if rule not in RULES:
            raise UserError(f"paramwise_cfg: undecayed={rule!r} must be one of {', '.join(map(repr, RULES))}.")
        factor = self.paramwise_cfg.get("backbone_lr_mult", 1.0)
        factors = dict.fromkeys(self.inside(model), factor) if factor != 1.0 else None
        groups: list[dict[str, Any]] = []
        if set(self.paramwise_cfg) - OWN_KEYS:
            self.add_params(groups, model)
        else:
            groups = [{"params": [p]} for p in model.parameters() if p.requires_grad]
        merged = grouped(model, groups, self.optimizer_cfg["lr"], rule, factors)
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, "params": merged})
        cfg = {"type": "OptimWrapper", **self.optim_wrapper_cfg}
        return OPTIM_WRAPPERS.build(cfg, default_args={"optimizer": optimizer})

    @staticmethod
    def inside(model: nn.Module) -> set[int]:
        """Identities of the parameters of the adapted backbones, heads that they hold left out."""
        found: set[int] = set()
        for adaptation in adaptations(model).values():
            host = adaptation.host
            head = {id(p) for name in host.heads() for p in host.backbone.get_submodule(name).parameters()}
            found |= {id(p) for p in host.backbone.parameters()} - head
        return found


def grouped(
    model: nn.Module,
    groups: Iterable[dict[str, Any]],
    lr: float,
    rule: str = RULES[0],
    factors: Mapping[int, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups of one parameter each, with what modules ask for; those that are alike in one.

    Args:
        model: Whose they are.
        groups: Of an optimiser; what they state of the decay stays.
        lr: Of those that state none.
        rule: Of :data:`RULES`.
        factors: Further factors of the learning rate, by the parameters' identities.
    """
    asked, still, factors = lr_factors(model), undecayed(model, rule), factors or {}
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for group in groups:
        (param,) = group.pop("params")
        if id(param) in still:
            group.setdefault("weight_decay", 0.0)
        own = asked.get(id(param), 1.0) * factors.get(id(param), 1.0)
        if own != 1.0:
            group["lr"] = group.get("lr", lr) * own
        same = merged.setdefault(tuple(sorted(group.items())), {**group, "params": []})
        same["params"].append(param)
    return list(merged.values())


def lr_factors(model: nn.Module) -> dict[int, float]:
    """Factors of the learning rate that modules ask for, by the parameters' identities."""
    found: dict[int, float] = {}
    for module in model.modules():
        factors = getattr(module, "lr_factors", {})
        for name, param in module.named_parameters() if factors else ():
            found[id(param)] = factors.get(name.partition(".")[0], 1.0)
    return found


def undecayed(model: nn.Module, rule: str) -> set[int]:
    """Identities of the parameters without weight decay."""
    found = {id(p) for p in model.parameters() if p.dim() <= 1 and rule == "vectors"}
    for module in model.modules():
        if isinstance(module, NORMS) or not getattr(module, "weight_decay", True):
            found |= {id(p) for p in module.parameters()}
    for adaptation in adaptations(model).values():
        roles = (*UNDECAYED_ROLES, "norm_weight", "norm_bias")
        found |= {id(p.param) for p in adaptation.host.parameters() if p.role in roles}
    return found
