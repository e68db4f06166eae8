"""A merged adapter in a state dict: the weights from before merging stand beside the merged ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from vpeft.core.backbones.host import PEFT_KEY, is_peft_key
from vpeft.core.backbones.kept.few_bits import dense
from vpeft.errors import UserError

#: What stands before the name of a weight from before merging.
MERGED = f"{PEFT_KEY}.merged."


class Mergeable(Protocol):
    """What is asked of an adaptation here (:class:`~vpeft.core.adaptation.adaptation.Adaptation`)."""

    merged: dict[str, Tensor]

    def take_as_merged(self, before: Mapping[str, Tensor]) -> None: ...

    def unmerge(self) -> None: ...


def put_merged(adaptation: Mergeable, state: dict[str, Tensor], prefix: str) -> None:
    """Add to a state dict what tells that, and from what, the adapter is merged."""
    for name, value in adaptation.merged.items():
        state[f"{prefix}{MERGED}{name}"] = dense(value)


def take_merged(adaptation: Mergeable, state: dict[str, Tensor], prefix: str) -> None:
    """Make an adaptation merged or not merged as a state dict is that is being loaded; its keys for this are taken out.

    Raises:
        UserError: It holds a plain model, which may be merged or not, and the adapter is merged.
    """
    start = prefix + MERGED
    before = {key.removeprefix(start): state.pop(key) for key in [key for key in state if key.startswith(start)]}
    if before:
        adaptation.take_as_merged(before)
    elif adaptation.merged and any(is_peft_key(key) for key in state):
        adaptation.unmerge()
    elif adaptation.merged:
        raise UserError(
            "the state dict holds no adapter, and the adapter here is merged into the weights that it would replace: "
            "vpeft.unmerge(model) or vpeft.detach(model) first."
        )
