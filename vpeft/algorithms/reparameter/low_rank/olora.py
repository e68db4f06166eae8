"""OLoRA."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vpeft.algorithms.reparameter.low_rank.pissa import FromBase, FromWeight
from vpeft.registry import PEFT_METHODS


class Orthonormal(FromWeight):
    """From a QR decomposition."""

    @staticmethod
    def start(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        """A0 the first r rows of R, B0 the first r columns of Q, with ``W0 = Q R``."""
        left, right = torch.linalg.qr(weight)
        return right[:rank], left[:, :rank]


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class OLoRA(FromBase):
    __doc__ = f"""``W <- (W0 - s B0 A0) + s B A``, ``s = alpha / r``: B and A start as r columns of Q and r rows of R,
    ``W0 = Q R``.

    {FromBase.__doc__}"""

    paper = "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models, 2406.01775, Section 3"
    kind = Orthonormal
