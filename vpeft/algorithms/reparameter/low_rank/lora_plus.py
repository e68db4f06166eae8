"""LoRA+."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vpeft.algorithms.reparameter.lora import LoRA
from vpeft.algorithms.reparameter.targets import Rows
from vpeft.core.backbones.sites.site import Site
from vpeft.registry import PEFT_METHODS


@PEFT_METHODS.register_module(name="LoRA+")
@dataclass(kw_only=True)
class LoRAPlus(LoRA):
    """``W <- W0 + (alpha / r) B A``, B learning ``ratio`` times as fast as A.

    The recipes' constructor of the optimiser makes the groups, ``vpeft.PEFTOptimWrapperConstructor``. In a loop of your
    own, ``PEFTOptimWrapperConstructor({"optimizer": {"type": "AdamW", "lr": 1e-3}})(model).optimizer`` has them, while
    an optimiser over ``model.parameters()`` trains plain LoRA.

    Args:
        rank: r.
        alpha: Numerator of the scale; None means r, a scale of 1.
        targets: As LoRA's; None means q and v, in a block without attention fc1 and fc2, and on a host without blocks
            every linear and convolution of at least r rows and columns.
        drop: Dropout on the input of A.
        ratio: Learning rate of B over that of A.
    """

    ratio: float = 16.0

    paper = "LoRA+: Efficient Low Rank Adaptation of Large Models, ICML 2024, Section 4"
    space = {**LoRA.space, "ratio": [4.0, 16.0, 64.0]}
    unverified = "A language-model method: its ratio of 16 is that of language models, q and v as targets are ours."

    def update(self, site: Site, rows: Rows) -> nn.Module:
        update = super().update(site, rows)
        update.lr_factors = {"up": self.ratio}
        return update
