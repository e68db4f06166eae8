"""What a method has selected or searched: channels, entries of weights, sizes of its modules.

A placed module shows it by a method ``selected() -> {part: mask}``: boolean tensors over what could have been used, a
vector of channels or units, or a matrix of a weight's entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.backbones.host import PEFT_KEY
from vpeft.errors import UserError


@dataclass(frozen=True)
class Selection:
    """What one module uses.

    Attributes:
        name: The module's name in its method, with the part where it has several.
        block: Index of the block; None outside the blocks.
        mask: What is used of what could have been, bool.
    """

    name: str
    block: int | None
    mask: Tensor

    @property
    def count(self) -> int:
        """How much is used."""
        return int(self.mask.sum())

    @property
    def share(self) -> float:
        """Used of all."""
        return float(self.mask.double().mean())

    @property
    def by_channel(self) -> Tensor:
        """How often each input channel is used: by one row, or by all rows of a weight."""
        return self.mask.double() if self.mask.dim() == 1 else self.mask.double().sum(0)


def selections(model: nn.Module) -> list[Selection]:
    """What every module of the attached methods uses, block by block.

    Raises:
        UserError: No module of the attached methods selects anything.
    """
    adaptation = find_adaptation(model)
    host = adaptation.host
    indices = {id(block.module): block.index for block in host.blocks}
    names = {id(module): name for name, module in host.backbone.named_modules()}
    found = []
    for owner in sorted(host.owners, key=lambda module: id(module) not in indices):  # blocks first
        index = indices.get(id(owner))
        where = names[id(owner)] if index is None else ""
        for modules in owner._modules.get(PEFT_KEY, {}).values():
            for name, module in modules.items():
                parts = module.selected() if hasattr(module, "selected") else {}
                for part, mask in parts.items():
                    label = where or name
                    label = label if len(parts) == 1 else f"{label}.{part}"
                    found.append(Selection(label, index, mask.detach().to("cpu", torch.bool)))
    if not found:
        names = ", ".join(method.registered_name() for method in adaptation.methods.values())
        raise UserError(f"{names} selects nothing: there is no structure to show.")
    return found
