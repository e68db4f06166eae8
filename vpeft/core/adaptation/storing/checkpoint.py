"""What a run's checkpoint holds, and whether one fits."""

from __future__ import annotations

from typing import Any

from torch import nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.adaptation.storing.adapter_file import check_base
from vpeft.core.backbones.host import is_peft_key
from vpeft.errors import UserError


def check_checkpoint(model: nn.Module, checkpoint: dict[str, Any], where: str) -> None:
    """Refuse a checkpoint that does not belong to the adapted ``model``; a plain one (of the base) passes.

    Raises:
        UserError: Foreign keys, other methods, another host or other base weights.
    """
    adaptation: Adaptation = find_adaptation(model)
    metadata = checkpoint.get("peft")
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, dict) or not any(key in model.state_dict() for key in state):
        raise UserError(f"{where} is a foreign checkpoint: none of its keys {list(state)[:3]} is in this model.")
    if metadata is None:
        if any(is_peft_key(key) for key in state):
            raise UserError(f"{where} holds PEFT parameters but not which method they belong to: train it again.")
        return
    own = [method.config() for method in adaptation.methods.values()]
    if metadata["methods"] != own:
        raise UserError(f"{where} was trained with {metadata['methods']}, this config has {own}: use its own config.")
    check_base(adaptation, metadata, where)
