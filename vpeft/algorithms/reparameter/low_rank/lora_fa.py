"""LoRA-FA."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vpeft.algorithms.modules import Fixed
from vpeft.algorithms.reparameter.lora import LoRA
from vpeft.algorithms.reparameter.targets import Rows
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.site import Site
from vpeft.registry import PEFT_METHODS


def freeze(update: nn.Module, *names: str) -> None:
    """Make buffers of parameters, or of dicts of them, under the same keys."""
    for name in names:
        held = getattr(update, name)
        delattr(update, name)
        if isinstance(held, Tensor):
            update.register_buffer(name, held.data)
        else:
            setattr(update, name, Fixed({key: held[key].data for key in held}))


@PEFT_METHODS.register_module(name="LoRA-FA")
@dataclass(kw_only=True)
class LoRAFA(LoRA):
    """``W <- W0 + (alpha / r) B A`` with A drawn once and frozen: of its input only ``A x``, r numbers, is kept.

    A is stored with the adapter. B is trained by the recipe's optimiser; the optimiser of this name in HuggingFace's
    peft also multiplies B's gradient by ``(A A^T)^-1``.

    Args:
        rank: r.
        alpha: Numerator of the scale; None means r, a scale of 1.
        targets: As LoRA's; None means q and v, in a block without attention fc1 and fc2, and on a host without blocks
            every linear and convolution of at least r rows and columns.
        drop: Dropout on the input of A.
    """

    paper = "LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models Fine-tuning, 2308.03303, Section 3"
    unverified = "A language-model method: q and v as targets in vision are ours."

    def update(self, site: Site, rows: Rows) -> nn.Module:
        update = super().update(site, rows)
        freeze(update, "down")
        return update

    def count(self, host: Host) -> int:
        # B alone: r numbers for each row that is updated.
        return self.rank * self.updated_rows(host)
