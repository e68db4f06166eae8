"""LoRA and DoRA as HuggingFace ``peft`` keeps them: a folder with ``adapter_config.json`` and a safetensors file.

The folder is of the network that the methods are attached to, by the network's own names of modules. Both compute the
same: where vpeft gives queries, keys and values of one linear a pair each, the linear's one pair in the folder has the
sum of their ranks. A method that is LoRA with another scale, start or training is kept as LoRA; what is LoRA and DoRA
there becomes the methods of these names here. The head is in it where the network holds it inside (timm).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vpeft.algorithms.reparameter.lora import LoRA, LowRank
from vpeft.algorithms.reparameter.low_rank.dora import DoRA, Magnitude
from vpeft.algorithms.reparameter.targets import TARGETS
from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.attach import attach as attach_methods
from vpeft.core.adaptation.contributions import every_site
from vpeft.core.adaptation.find import adaptations, find_adaptation
from vpeft.core.adaptation.storing.format import check_finite
from vpeft.core.adaptation.undo import undone_on_error
from vpeft.core.adaptation.wrappers import state_dict
from vpeft.core.backbones.load import built_by
from vpeft.core.backbones.sites.site import Site
from vpeft.core.backbones.sites.stated_linear import in_order, weight_parts
from vpeft.errors import UserError
from vpeft.files import read_json, schema_fault, write_atomically, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: In front of the network's own names in the file.
PREFIX = "base_model.model."
#: Between a linear's name and what peft keeps of it: A, B, and the magnitudes of DoRA.
DOWN, UP, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
_MAYBE = {"type": ["object", "null"], "additionalProperties": {"type": "number"}}
SCHEMA = {
    "type": "object",
    "required": ["peft_type", "r", "lora_alpha"],
    "properties": {
        "r": {"type": "integer", "minimum": 1},
        "lora_alpha": {"type": "number"},
        "lora_dropout": {"type": "number", "minimum": 0, "maximum": 1},
        "rank_pattern": _MAYBE,
        "alpha_pattern": _MAYBE,
        "modules_to_save": {"type": ["array", "null"], "items": {"type": "string"}},
    },
}
#: Fields of another method than LoRA and DoRA, and what they hold there.
PLAIN = {
    "fan_in_fan_out": False,
    "bias": "none",
    "lora_bias": False,
    "use_qalora": False,
    "layer_replication": None,
    "target_parameters": None,
}
#: Starts that leave the base's own weights as they are; those of the others belong to another base.
STARTS = (True, False, "gaussian", "orthogonal", "eva")


def save_peft(model: nn.Module, folder: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> Path:
    """Write the LoRA or DoRA adapter of ``model`` for ``peft.PeftModel.from_pretrained(network, folder)``.

    Args:
        model: A model with LoRA, or a method that is LoRA at inference, or DoRA attached to one network of linears, not
            merged.
        folder: The folder; older files of the same names are replaced.
        metadata: Further texts for the safetensors file, such as names of classes.

    Raises:
        UserError: The adapter is of another method or of more than one, updates what peft does not, or holds NaN.
    """
    adaptation = find_adaptation(model)
    adaptation.check()
    method = _method(adaptation)
    if adaptation.merged:
        raise UserError("the adapter is merged into the weights: unmerge it before saving (vpeft.unmerge(model)).")
    tensors, ranks, scales = {}, {}, {}
    for name, (down, up), scale, magnitude in _pairs(adaptation):
        tensors |= {f"{PREFIX}{name}{DOWN}": down, f"{PREFIX}{name}{UP}": up}
        tensors |= {} if magnitude is None else {f"{PREFIX}{name}{MAGNITUDE}": magnitude}
        ranks[name], scales[name] = len(down), scale * len(down)
    heads = list(adaptation.host.heads())
    state = state_dict(adaptation.host.backbone)
    inside = {key: value for key, value in state.items() if key.startswith(tuple(f"{name}." for name in heads))}
    tensors |= {f"{PREFIX}{key}": value for key, value in inside.items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    check_finite(tensors, f"{folder} is not written")
    rank, alpha = (max(set(found), key=found.count) for found in (list(ranks.values()), list(scales.values())))
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": (built_by(adaptation.host.backbone) or {}).get("of"),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": method.drop,
        "target_modules": sorted(ranks),
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in scales.items() if a != alpha},
        "modules_to_save": sorted({key.rpartition(".")[0] for key in inside}) or None,
        "use_rslora": False,
        "use_dora": any(key.endswith(MAGNITUDE) for key in tensors),
        **PLAIN,
    }
    folder = Path(folder)
    write_atomically(folder / WEIGHTS, save(tensors, {"format": "pt", **(metadata or {})}))
    write_json(folder / CONFIG, config)
    return folder


def _method(adaptation: Adaptation) -> LoRA:
    methods = list(adaptation.methods.values())
    if len(methods) != 1 or not isinstance(methods[0], LoRA):
        names = ", ".join(method.registered_name() for method in methods)
        raise UserError(
            f"{names} cannot be kept in peft's form: it is for one method that is LoRA or DoRA. "
            "vpeft.save_adapter keeps it."
        )
    if adaptation.trained or not isinstance(methods[0].drop, float | int):
        why = "parameters of the base (extra=)" if adaptation.trained else "another drop by stage or block"
        raise UserError(f"the adapter holds {why}, for which peft's form has no place. vpeft.save_adapter keeps it.")
    return methods[0]


def _pairs(adaptation: Adaptation) -> Iterator[tuple[str, tuple[Tensor, Tensor], float, Tensor | None]]:
    """Name of each updated linear in the network, its A and B, the scale of their product, and DoRA's magnitudes."""
    names = _linears(adaptation.host.backbone)
    for site, update, magnitude in _updates(adaptation):
        whole = None if magnitude is None else magnitude.whole()
        first = 0
        for part in _parts(site):
            pair, rows = update.pair(first, first + len(part)), slice(first, first + len(part))
            first += len(part)
            if pair is not None:
                if id(part) not in names:
                    raise UserError(f"the weight of site {site.name!r} belongs to no linear that peft could adapt.")
                yield names[id(part)], pair, update.scale, None if whole is None else whole[rows]


def _parts(site: Site) -> list[nn.Parameter]:
    """The weights of a site's linears, whose rows are those that methods see.

    Raises:
        UserError: They are others.
    """
    parts = weight_parts(site.module)
    if site.module.weight.numel() != sum(part.numel() for part in parts):
        raise UserError(f"site {site.name!r} is a part of a linear, which peft would adapt as a whole.")
    rows = torch.arange(sum(len(part) for part in parts))
    if not torch.equal(in_order(site.module, rows), rows):
        raise UserError(f"site {site.name!r} has queries, keys and values head by head: not kept in peft's form.")
    return parts


def _updates(adaptation: Adaptation) -> Iterator[tuple[Site, LowRank, Magnitude | None]]:
    """Site, update, and DoRA's magnitudes of what it updates."""
    for _, site in every_site(adaptation):
        magnitude = next((entry.module for entry in site.entries if isinstance(entry.module, Magnitude)), None)
        for entry in site.entries:
            if entry.module is magnitude:
                continue
            if not isinstance(entry.module, LowRank):
                raise UserError(f"{entry.key} updates a convolution, which is not kept in peft's form here.")
            yield site, entry.module, magnitude


def _linears(network: nn.Module) -> dict[int, str]:
    """Names of a network's linears by the ``id`` of their weights."""
    return {id(m.weight): name for name, m in network.named_modules() if isinstance(m, nn.Linear)}


def load_peft(
    model: nn.Module, folder: str | os.PathLike[str], backbone: str | None = None, sample: Any = None
) -> nn.Module:
    """Attach and load an adapter that ``peft`` has written, in place.

    peft notes no fingerprint: whether the base is the one that it was trained on is not known here.

    Args:
        model: The plain model with the base's weights.
        folder: With ``adapter_config.json`` and ``adapter_model.safetensors``.
        backbone: As in :func:`vpeft.attach`.
        sample: As in :func:`vpeft.attach`.

    Raises:
        UserError: It is neither LoRA (or rsLoRA) nor DoRA, not the same in every block, or does not fit. The model is
            unchanged then.
    """
    folder = Path(folder)
    config, tensors = _read(folder)
    if adaptations(model):
        raise UserError(f"{folder}: the model has a method attached already: detach it first.")
    updates = _stored_updates(config, tensors, folder)
    with undone_on_error(model):
        method = _method_for(model, backbone, updates, config, folder, sample)
        attach_methods(model, [method], backbone, sample=sample)
        adaptation = find_adaptation(model)
        placed = {name: pair for name, pair, *_ in _pairs(adaptation)}
        if placed.keys() != updates.keys():
            odd = sorted(placed.keys() ^ updates.keys())
            raise UserError(
                f"{folder} updates {len(updates)} linears, which are not the same in every block ({odd[0]}, {len(odd)} "
                "such): LoRA of vpeft has one set of targets for all blocks."
            )
        heads = _heads(adaptation, tensors, folder)
        with torch.no_grad():
            _put(adaptation, updates, folder)
            for own, value in heads:
                own.copy_(value)
    return model


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = read_json(folder / CONFIG, "peft's config", missing="give a folder of save_pretrained of peft")
    if isinstance(config, dict) and config.get("peft_type") != "LORA":
        raise UserError(f"{folder} holds {config.get('peft_type')!r} of peft, and LORA alone is read.")
    if error := schema_fault(config, SCHEMA):
        place = ".".join(map(str, error.absolute_path)) or "as a whole"
        raise UserError(f"{folder / CONFIG} is no config of peft's LoRA ({place}: {ascii(error.message)[1:100]}).")
    for field, plain in PLAIN.items():
        if config.get(field, plain) != plain:
            raise UserError(f"{folder} has {field}={config[field]!r}: plain LoRA and DoRA are read, {field}={plain!r}.")
    if config.get("init_lora_weights", True) not in STARTS:
        start = config["init_lora_weights"]
        raise UserError(f"{folder} has init_lora_weights={start!r}, which changes the base: let peft convert it first.")
    file = folder / WEIGHTS
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  (not a mapping)
    except Exception as error:  # safetensors raises many kinds
        reason = ascii(str(error))[1:160]
        raise UserError(f"{file} is missing, truncated or no safetensors file ({reason}): save it again.") from error
    check_finite(tensors, str(file))
    return config, {key.removeprefix(PREFIX): value for key, value in tensors.items()}


class Stored(NamedTuple):
    """What a folder holds of one linear: A, B, the scale of their product, and DoRA's magnitudes."""

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None


def _stored_updates(config: Mapping[str, Any], tensors: dict[str, Tensor], folder: Path) -> dict[str, Stored]:
    """By the linear's name; they are taken out of ``tensors``."""
    found = {}
    for key in [key for key in tensors if key.endswith(DOWN)]:
        name = key.removesuffix(DOWN)
        down, up = tensors.pop(key), tensors.pop(f"{name}{UP}", None)
        if up is None or down.dim() != 2 or up.dim() != 2 or len(down) != up.shape[1]:
            raise UserError(f"{folder}: {name} has no pair of matrices (r, in) and (out, r).")
        rank = _pattern(config.get("rank_pattern"), name, config["r"])
        alpha = _pattern(config.get("alpha_pattern"), name, config["lora_alpha"])
        if rank != len(down):
            raise UserError(f"{folder}: {name} has the rank {len(down)}, and its config says {rank}.")
        magnitude = tensors.pop(f"{name}{MAGNITUDE}", None) if config.get("use_dora") else None
        if config.get("use_dora") and (magnitude is None or magnitude.shape != up.shape[:1]):
            raise UserError(f"{folder}: {name} has no {MAGNITUDE[1:]} of {len(up)} numbers, and use_dora is True.")
        found[name] = Stored(down, up, alpha / (rank**0.5 if config.get("use_rslora") else rank), magnitude)
    if not found:
        raise UserError(f"{folder / WEIGHTS} holds no lora_A: it is no LoRA adapter of peft.")
    return found


def _pattern(pattern: Mapping[str, Any] | None, name: str, default: float) -> float:
    """As peft reads its patterns: the first whose expression is the end of the name."""
    for key, value in (pattern or {}).items():
        if not re.fullmatch(r"[\w.]+", key):
            raise UserError(f"the pattern {ascii(key)[:60]} in peft's config is no plain name: write names out.")
        if f".{name}".endswith(f".{key}"):
            return value
    return default


def _method_for(
    model: nn.Module,
    backbone: str | None,
    updates: Mapping[str, Stored],
    config: Mapping[str, Any],
    folder: Path,
    sample: Any,
) -> LoRA:
    """The LoRA or DoRA whose targets are the linears that the folder updates."""
    ranks, scales = {len(one.down) for one in updates.values()}, {one.scale for one in updates.values()}
    if len(ranks) > 1 or len(scales) > 1:
        raise UserError(
            f"{folder} has the ranks {sorted(ranks)} and scales {sorted(scales)}: LoRA of vpeft has one of each."
        )
    rank, scale = ranks.pop(), scales.pop()
    options = {"rank": rank, "alpha": scale * rank, "drop": config.get("lora_dropout", 0.0)}
    probe = LoRA(**{**options, "rank": 1})
    attach_methods(model, [probe], backbone, sample=sample)  # to read the network's sites
    try:
        host = find_adaptation(model).host
        names = _linears(host.backbone)
        targets = set()
        for block in host.blocks:
            for target, (site, third) in TARGETS.items():
                if site in block.sites and _covers(block, site, third, names, updates):
                    targets.add(target)
        if not host.blocks:
            targets = set(updates)
    finally:
        find_adaptation(model).detach()
    if not targets:
        name = next(iter(updates))
        raise UserError(f"{folder} updates {name}, {len(updates)} linears in all, and this network has none of them.")
    kind = DoRA if config.get("use_dora") else LoRA
    return kind(**options, targets=tuple(t for t in TARGETS if t in targets) or tuple(sorted(targets)))


def _covers(block: Any, site: str, third: int | None, names: Mapping[int, str], updates: Mapping[str, Any]) -> bool:
    """Whether a target is a linear of its own that is updated."""
    if not any(names.get(id(part)) in updates for part in weight_parts(block.sites[site].module)):
        return False
    parts = _parts(block.sites[site])
    if third is None:
        return len(parts) == 1 and names.get(id(parts[0])) in updates
    return len(parts) == 3 and names.get(id(parts[third])) in updates


def _put(adaptation: Adaptation, updates: Mapping[str, Stored], folder: Path) -> None:
    names = _linears(adaptation.host.backbone)
    for site, update, magnitude in _updates(adaptation):
        first = 0
        for part in _parts(site):
            rows, first = (first, first + len(part)), first + len(part)
            target = next((t for t, own in update.rows.items() if own == rows), None)
            if target is None:
                continue
            stored = updates[names[id(part)]]
            places = [(update.down[target], stored.down), (update.up[target], stored.up)]
            places += [] if magnitude is None else [(magnitude.magnitude[target], stored.magnitude)]
            for own, value in places:
                if own.shape != value.shape:
                    raise UserError(
                        f"{folder}: {names[id(part)]} has the shape {tuple(value.shape)}, here {tuple(own.shape)}: it "
                        "is of another network."
                    )
                own.copy_(value)


def _heads(adaptation: Adaptation, tensors: Mapping[str, Tensor], folder: Path) -> list[tuple[Tensor, Tensor]]:
    """Modules that peft has saved whole, a head inside the network: its own tensors, and their new values."""
    state, heads = state_dict(adaptation.host.backbone), tuple(f"{name}." for name in adaptation.host.heads())
    found = []
    for key, value in tensors.items():
        if key not in state or not heads or not key.startswith(heads):
            raise UserError(f"{folder} holds {key}, which is neither LoRA nor a head of this network.")
        if state[key].shape != value.shape:
            raise UserError(
                f"{folder}: {key} has the shape {tuple(value.shape)}, here {tuple(state[key].shape)}: build the "
                "network with that many classes."
            )
        found.append((state[key], value))
    return found
