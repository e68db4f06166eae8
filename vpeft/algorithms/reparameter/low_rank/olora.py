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
    """``W <- (W0 - s B0 A0) + s B A``, ``s = alpha / r``: B and A start as r columns of Q, r rows of R, W0 = Q R.

    The paper writes the residual into the base. Here W0 stays as it is, and ``s (B A - B0 A0)`` is added to it: the
    same function and the same gradients, and the base's fingerprint, detaching and merging are those of every method.
    The adapter holds A0 and B0 beside A and B.

    Args:
        rank: r.
        alpha: Numerator of the scale; None means r, a scale of 1.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint pair; None means q and v, in a block
            without attention fc1 and fc2.
        drop: Dropout on the input of A and A0.
    """

    paper = "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models, 2406.01775, Section 3"
    kind = Orthonormal
