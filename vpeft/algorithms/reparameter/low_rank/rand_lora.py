"""RandLoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.reparameter.targets import OnTargets, Rows, RowUpdates
from vpeft.core.backbones.host import Host
from vpeft.registry import PEFT_METHODS


class RandomBases(nn.Module):
    """A ``(r, small)`` and n matrices B_i ``(large, r)``, drawn once and frozen; smaller linears have the first.

    Args:
        small: The most that any linear has on its smaller side.
        large: The most on the larger side.
        rank: r.
        sparse: Entries -1 and 1 with a chance of a sixth each, and else 0, in the place of uniform ones.
        seed: What they are drawn by, whatever else is random; the tensors are stored with the adapter.
    """

    def __init__(self, small: int, large: int, rank: int, sparse: bool, seed: int) -> None:
        super().__init__()
        self.sparse, self.seed = sparse, seed
        self.register_buffer("down", torch.empty(rank, small))
        self.register_buffer("up", torch.empty(bases(small, rank), large, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Both of standard deviation 1, as they were drawn."""
        generator = torch.Generator().manual_seed(self.seed)
        for tensor in (self.down, self.up):
            drawn = torch.rand(tensor.shape, generator=generator, device="cpu")
            drawn = (drawn > 5 / 6).float() - (drawn < 1 / 6).float() if self.sparse else 2 * drawn - 1
            tensor.copy_(drawn / drawn.std())


def bases(small: int, rank: int) -> int:
    """n: as many as it takes for a full rank."""
    return math.ceil(small / rank)


class ScaledBases(RowUpdates):
    """``s sum_i B_i diag(lambda_i) A diag(gamma_i)``, or its transpose where a target has fewer rows than inputs.

    Args:
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) of each target.
        shared: A and B; referred to, not owned.
        scale: s.
        zero: Which of the two starts as zero.
        drop: Dropout on the input.
    """

    def __init__(
        self, size: tuple[int, int], rows: Rows, shared: RandomBases, scale: float, zero: str, drop: float
    ) -> None:
        super().__init__(size, rows, drop)
        self.shared, self.scale, self.zero = (shared,), scale, zero  # in a tuple, so that torch does not register it
        rank = len(shared.down)
        small = {t: min(size[0], last - first) for t, (first, last) in self.rows.items()}
        self.left = nn.ParameterDict({t: torch.empty(bases(width, rank), rank) for t, width in small.items()})
        self.right = nn.ParameterDict({t: torch.empty(bases(width, rank), width) for t, width in small.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """One of lambda and gamma zero, the other constant: 1 by its longer side."""
        for name, values in (("lambda", self.left), ("gamma", self.right)):
            for target in self.rows:
                start = 0.0 if self.zero == name else 1 / max(values[target].shape)
                nn.init.constant_(values[target], start)

    def pair(self, target: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What reads the input ``(n r, in)``, and what gives the rows of the target ``(rows, n r)``."""
        (shared,) = self.shared
        left, right = self.left[target].to(dtype), self.right[target].to(dtype)
        first, last = self.rows[target]
        count, width, large = len(left), right.shape[1], max(last - first, self.in_features)
        down = left[:, :, None] * shared.down[:, :width].to(dtype) * right[:, None]
        down, up = down.flatten(0, 1), shared.up[:count, :large].to(dtype).transpose(0, 1).flatten(1)
        return (down, up) if width == self.in_features else (up.t(), down.t())

    def change(self, target: str, x: Tensor) -> Tensor:
        down, up = self.pair(target, x.dtype)
        return F.linear(F.linear(x, down), up) * self.scale

    def dense(self, target: str) -> Tensor:
        down, up = self.pair(target, self.left[target].dtype)
        return up @ down * self.scale


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class RandLoRA(OnTargets):
    """``W <- W0 + s sum_i B_i diag(lambda_i) A diag(gamma_i)``, of full rank: n frozen random pairs for all linears.

    A (r, in) is one for all i, B_i (out, r) differ, and ``n = in / r``, so that a smaller r trains more; where a linear
    has fewer outputs than inputs, all is transposed. Trained are lambda_i (r) and gamma_i (in). The authors' code
    and HuggingFace's peft pair the columns of the B_i with the rows of A in another order, which is as random.

    Args:
        rank: r. The authors' runs of CLIP's ViT-B/32 have 6.
        alpha: ``s = alpha / r``, 10 as in the authors' vision code; HuggingFace's peft has 640 with its rank of 32.
        zero: What starts as zero, ``gamma`` as in the authors' vision code, or ``lambda`` as in HuggingFace's peft; the
            other starts as a constant.
        sparse: A and B with entries -1, 0 and 1.
        seed: Of A and B, which are stored with the adapter: as many numbers as the largest weight.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint update; None means q and v, in a block
            without attention fc1 and fc2.
        drop: Dropout on the input.
    """

    rank: int = 32
    alpha: float = 10.0
    zero: str = "gamma"
    sparse: bool = False
    seed: int = 0
    targets: tuple[str, ...] | None = None
    drop: float = 0.0

    category = "reparameter"
    paper = "RandLoRA: Full-rank parameter-efficient fine-tuning of large models, ICLR 2025, 2502.00987"
    space = {"rank": [8, 16, 32], "zero": ["gamma", "lambda"], "sparse": [False, True]}
    limits = {"seed": (0, 2**31 - 1)}
    mergeable = True
    unverified = "q and v as targets are ours: the authors take every linear; sections of the paper are not named."

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_choice("zero", ("lambda", "gamma"))
        self.need_width("rank", host, [min(sizes) for sizes in self.sizes(host)])

    def build(self, host: Host) -> None:
        small = max(min(sizes) for sizes in self.sizes(host))
        large = max(max(sizes) for sizes in self.sizes(host))
        shared = RandomBases(small, large, self.rank, self.sparse, self.seed)
        host.keep(shared, "shared")
        for block, site, rows in self.linears(host):
            update = ScaledBases(block.size(site), rows, shared, self.alpha / self.rank, self.zero, self.drop)
            block.place(site, "parallel", update, site)

    def count(self, host: Host) -> int:
        return sum(bases(min(sizes), self.rank) * (self.rank + min(sizes)) for sizes in self.sizes(host))
