"""VeRA."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.reparameter.targets import OnTargets, Rows, RowUpdates
from vpeft.core.backbones.host import Host
from vpeft.registry import PEFT_METHODS


class RandomPair(nn.Module):
    """A ``(r, in)`` and B ``(out, r)``, drawn once and frozen, for all linears; a narrower one has the first of them.

    Args:
        size: Inputs and outputs of the widest linears.
        rank: r.
        seed: What they are drawn by, whatever else is random; the tensors are stored with the adapter.
    """

    def __init__(self, size: tuple[int, int], rank: int, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("down", torch.empty(rank, size[0]))
        self.register_buffer("up", torch.empty(size[1], rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Both Kaiming-uniform: bounds ``sqrt(6 / in)`` and ``sqrt(6 / r)``, as B's inputs are r."""
        generator = torch.Generator().manual_seed(self.seed)
        for tensor in (self.down, self.up):
            bound = math.sqrt(6 / tensor.shape[1])
            drawn = torch.empty(tensor.shape, device="cpu").uniform_(-bound, bound, generator=generator)
            tensor.copy_(drawn)


class ScaledPair(RowUpdates):
    """``diag(b) B diag(d) A`` for each target.

    Args:
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) of each target.
        shared: A and B; referred to, not owned.
        start: What every d starts as.
        drop: Dropout on the input.
    """

    def __init__(self, size: tuple[int, int], rows: Rows, shared: RandomPair, start: float, drop: float) -> None:
        super().__init__(size, rows, drop)
        self.shared, self.start = (shared,), start  # in a tuple, so that torch does not register it a second time
        self.d = nn.ParameterDict({t: torch.empty(len(shared.down)) for t in rows})
        self.b = nn.ParameterDict({t: torch.empty(last - first) for t, (first, last) in rows.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """b zero, d the constant."""
        for target in self.rows:
            nn.init.constant_(self.d[target], self.start)
            nn.init.zeros_(self.b[target])

    def pair(self, target: str) -> tuple[Tensor, Tensor]:
        """The parts of A and B that are as wide as the target."""
        (shared,) = self.shared
        return shared.down[:, : self.in_features], shared.up[: len(self.b[target])]

    def change(self, target: str, x: Tensor) -> Tensor:
        down, up = self.pair(target)
        return F.linear(F.linear(x, down) * self.d[target], up) * self.b[target]

    def dense(self, target: str) -> Tensor:
        down, up = (part.to(self.b[target].dtype) for part in self.pair(target))
        return (self.b[target][:, None] * up) @ (self.d[target][:, None] * down)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class VeRA(OnTargets):
    """``W <- W0 + diag(b) B diag(d) A``: one frozen random pair for all linears, vectors b and d for each.

    Args:
        rank: r.
        start: What d starts as; b starts as zero.
        seed: Of A (r, in) and B (out, r).
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint update; None means q and v, in a block
            without attention fc1 and fc2.
        drop: Dropout on the input of A.
    """

    rank: int = 256
    start: float = 0.1
    seed: int = 0
    targets: tuple[str, ...] | None = None
    drop: float = 0.0

    category = "reparameter"
    paper = "VeRA: Vector-based Random Matrix Adaptation, ICLR 2024, Section 3, Equation 2"
    space = {"rank": [64, 256, 1024], "start": [0.01, 0.1, 1.0]}
    limits = {"seed": (0, 2**31 - 1)}
    mergeable = True

    def build(self, host: Host) -> None:
        places = list(self.linears(host))
        inputs = max(block.size(site)[0] for block, site, _ in places)
        outputs = max(last - first for _, _, rows in places for first, last in rows.values())
        shared = RandomPair((inputs, outputs), self.rank, self.seed)
        host.keep(shared, "shared")
        for block, site, rows in places:
            update = ScaledPair(block.size(site), rows, shared, self.start, self.drop)
            block.place(site, "parallel", update, site)

    def count(self, host: Host) -> int:
        return sum(self.rank + rows for _, rows in self.sizes(host))
