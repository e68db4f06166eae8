"""What of a config is searched: by which names, and which values its host takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from mmengine import Config

from vpeft.apis.catalogue import config_parameters
from vpeft.apis.config.load import load_config
from vpeft.core.adaptation.peft_backbone import find_peft
from vpeft.core.contract.build import build_methods
from vpeft.core.contract.search_space import Range, Values
from vpeft.errors import UserError

#: Names of the optimiser's hyper-parameters.
OPTIMISER = {name: f"optim_wrapper.optimizer.{name}" for name in ("lr", "weight_decay")}


def dotted(name: str, place: str = "model.backbone") -> str:
    """The config's key of a name in a space; ``place`` is where the adapted backbone stands."""
    return name if "." in name else OPTIMISER.get(name, f"{place}.method.{name}")


def adapted_place(cfg: Config) -> tuple[str, dict[str, Any]]:
    """Where the adapted backbone stands in a config, and its settings.

    Raises:
        UserError: It has none.
    """
    place, backbone = find_peft(cfg)
    if not place:
        raise UserError(f"{cfg.filename} has no method on its backbone: there is none to tune.")
    return place, backbone


def storage_value(value: Any) -> Any:
    """A choice as the storage takes it."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def config_value(cfg: Config, key: str) -> Any:
    """A config's own value of a dotted key; of a method's hyper-parameter that it does not set, the default."""
    node: Any = cfg
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, list) else node.get(part)
    place, backbone = find_peft(cfg)
    if node is None and key.startswith(f"{place}.method."):
        node = getattr(build_methods(backbone["method"])[0], key.rsplit(".", 1)[1])
    return list(node) if isinstance(node, tuple) else node


def with_start(values: Values, start: Any) -> Values:
    """The space with the config's own value in it."""
    if isinstance(values, Range):
        return Range(min(values.low, start), max(values.high, start))
    return values if start in values else [start, *values]


def possible_values(config: str, options: Mapping[str, Any], key: str, values: list[Any]) -> list[Any]:
    """The values of a key that the host takes."""
    refusals = [_refusal(config, json.dumps({**options, key: value})) for value in values]
    found = [value for value, refusal in zip(values, refusals, strict=True) if refusal is None]
    if not found:
        raise UserError(f"space: no value of {key.rpartition('.')[2]} fits: {refusals[-1]}")
    return found


@cache
def _refusal(config: str, options: str) -> str | None:
    """Why a config cannot be built with these options, None where it can; the task does not matter."""
    try:
        config_parameters(load_config(config, options=json.loads(options)))
    except UserError as error:
        return str(error)
    return None


def taken_values(config: str, fixed: Mapping[str, Any], name: str, place: str, values: Values) -> Values:
    """Those of the values of a name that the host takes; it takes all of the optimiser's."""
    if not isinstance(values, list) or name in OPTIMISER:
        return values
    return possible_values(config, fixed, dotted(name, place), values)


def each_once(values: Iterable[Any]) -> list[Any]:
    """Values in their order, equal ones once."""
    return list({storage_value(value): value for value in values}.values())
