"""What a run's checkpoint holds, and whether one fits."""

from __future__ import annotations

from typing import Any

from torch import nn

from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.storing.adapter_file import check_base, model_metadata, pairs
from vpeft.core.backbones.host import is_peft_key
from vpeft.errors import UserError


def check_checkpoint(model: nn.Module, checkpoint: dict[str, Any], where: str) -> None:
    """Refuse a checkpoint that does not belong to the adapted ``model``; a plain one (of the base) passes.

    Raises:
        UserError: Foreign keys, other methods, another host or other base weights.
    """
    metadata = checkpoint.get("peft")
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, dict) or not any(key in model.state_dict() for key in state):
        raise UserError(f"{where} is a foreign checkpoint: none of its keys {list(state)[:3]} is in this model.")
    if metadata is None:
        if any(is_peft_key(key) for key in state):
            raise UserError(f"{where} holds PEFT parameters but not which method they belong to: train it again.")
        return
    for _, adaptation, theirs in pairs(model, metadata, where):
        own = [method.config() for method in adaptation.methods.values()]
        if theirs["methods"] != own:
            raise UserError(f"{where} was trained with {theirs['methods']}, this config has {own}: use its own config.")
        check_base(adaptation, theirs, where)


def shrink_checkpoint(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Leave the frozen backbones of ``model`` out of a checkpoint, and say what it belongs to."""
    own = {prefix + key for prefix, one in find_adaptations(model).items() for key in one.own_keys()}
    inside = tuple(find_adaptations(model))
    for name in ("state_dict", "ema_state_dict"):
        state = checkpoint.get(name, {})
        head = "module." if name == "ema_state_dict" else ""
        for key in list(state):
            inner = key.removeprefix(head)
            if inner.startswith(inside) and inner not in own:
                del state[key]
    checkpoint["peft"] = model_metadata(model)
