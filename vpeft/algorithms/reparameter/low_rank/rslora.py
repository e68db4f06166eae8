"""rsLoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vpeft.algorithms.reparameter.lora import LoRA
from vpeft.registry import PEFT_METHODS


@PEFT_METHODS.register_module(name="rsLoRA")
@dataclass(kw_only=True)
class RsLoRA(LoRA):
    """``W <- W0 + (alpha / sqrt r) B A``: LoRA with a scale under which the updates keep their size as r grows.

    Args:
        rank: r.
        alpha: Numerator of the scale; None means sqrt r, a scale of 1.
        targets: As LoRA's; None means q and v, in a block without attention fc1 and fc2, and on a host without blocks
            every linear and convolution of at least r rows and columns.
        drop: Dropout on the input of A.
    """

    paper = "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2312.03732, Section 3"
    space = {"rank": [4, 8, 16, 32, 64], "alpha": [2.0, 4.0, 8.0, 16.0], "drop": [0.0, 0.1]}
    unverified = "A language-model method: q and v as targets in vision are ours."

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / math.sqrt(self.rank)
