"""FacT: factor tuning, by a tensor train (TT) or a Tucker decomposition (TK)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

LAYOUTS = ("slices", "official")


class SharedFactors(nn.Module):
    """``U`` (r, C) and ``V`` (C, r) of all blocks of one width; for TK also the core and the third factor.

    Args:
        dim: C.
        rank: r.
        slices: Slices of all those blocks for TK, whose third factor P has the shape ``(r, slices)``; 0 for TT.
    """

    def __init__(self, dim: int, rank: int, slices: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, dim))
        self.up = nn.Parameter(torch.empty(dim, rank))
        if slices:
            self.core = nn.Parameter(torch.empty(rank, rank, rank))
            self.third = nn.Parameter(torch.empty(rank, slices))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """V zero, U as torch's linears, core and third factor Xavier-uniform."""
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        nn.init.zeros_(self.up)
        if hasattr(self, "core"):
            nn.init.xavier_uniform_(self.core)
            nn.init.xavier_uniform_(self.third)


class Slices(nn.Module):
    """The update ``s V S_j U`` of the slices of one linear; a subclass states ``S``.

    Args:
        shared: The shared factors; referred to, not owned.
        cut: Slices that the output is cut into (``rows``) and the input (``columns``).
        scale: s.
        drop: Dropout on the r-wide code before V.
    """

    def __init__(self, shared: SharedFactors, cut: tuple[int, int], scale: float, drop: float) -> None:
        super().__init__()
        self.shared = (shared,)  # in a tuple, so that torch does not register it a second time
        self.rows, self.columns = cut
        self.rank, self.scale = shared.down.shape[0], scale
        self.drop = nn.Dropout(drop)

    @property
    def borrowed(self) -> tuple[nn.Parameter, ...]:
        """The shared factors: what it trains at its site beside its own."""
        return tuple(self.shared[0].parameters())

    def inner(self) -> Tensor:
        """``S`` of every slice, ``(slices, r, r)``: rows are the code's outputs."""
        raise NotImplementedError(f"{type(self).__name__} states no S: override inner().")

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        (shared,) = self.shared
        inner = self.inner()
        code = F.linear(x.unflatten(-1, (self.columns, -1)), shared.down)
        # (rows r, columns r): one product for all slices of the linear.
        inner = inner.view(self.rows, self.columns, self.rank, self.rank).transpose(1, 2).flatten(2).flatten(0, 1)
        code = self.drop(F.linear(code.flatten(-2), inner)).unflatten(-1, (self.rows, self.rank))
        return F.linear(code, shared.up).flatten(-2) * self.scale

    def affine(self) -> tuple[Tensor, None]:
        """The dense update ``(rows C, columns C)``."""
        (shared,) = self.shared
        dense = shared.up.double() @ self.inner().double() @ shared.down.double()
        dense = dense.unflatten(0, (self.rows, self.columns)).transpose(1, 2)
        return self.scale * dense.flatten(2).flatten(0, 1), None


class TrainSlices(Slices):
    """TT: every ``S_j`` is learnt itself."""

    def __init__(self, shared: SharedFactors, cut: tuple[int, int], scale: float, drop: float) -> None:
        super().__init__(shared, cut, scale, drop)
        self.weight = nn.Parameter(torch.empty(self.rows * self.columns, self.rank, self.rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch's linears of the sizes ``r -> rows r`` and ``columns r -> r``."""
        bound = 1 / math.sqrt(self.columns * self.rank)
        nn.init.uniform_(self.weight, -bound, bound)

    def inner(self) -> Tensor:
        return self.weight


class TuckerSlices(Slices):
    """TK: ``M_j = sum_t C[:, :, t] P[t, j]``; ``S_j`` is its transpose, and for fc2 itself, as in the authors' code.

    Args:
        first: Column of P of its first slice.
        interleaved: The slices of a linear are cut out of their M's side by side, ``(r, r, slices)`` read as
            ``(r, slices r)``.
    """

    def __init__(
        self, shared: SharedFactors, cut: tuple[int, int], scale: float, drop: float, first: int, interleaved: bool
    ) -> None:
        super().__init__(shared, cut, scale, drop)
        self.first, self.interleaved = first, interleaved

    def reset_parameters(self) -> None:
        """All that it needs is shared."""

    def inner(self) -> Tensor:
        (shared,) = self.shared
        core = shared.core @ shared.third[:, self.first : self.first + self.rows * self.columns]
        inner = core.reshape(self.rank, -1, self.rank).transpose(0, 1) if self.interleaved else core.permute(2, 0, 1)
        return inner if self.columns > 1 else inner.transpose(1, 2)


@dataclass(kw_only=True)
class FacT(Method):
    """``DW_j = s V S_j U`` for every C x C slice j of the network: q, k, v, proj, four of fc1 (groups of its rows),
    four of fc2 (groups of its columns). U (r, C) and V (C, r) are shared by all blocks; on a host with stages by
    the blocks of each stage (our extension).

    Args:
        rank: r.
        scale: s; from {0.01, 0.1, 1, 10, 100} per task in the authors' configs.
        drop: Dropout on the code before V.
    """

    rank: int = 16
    scale: float = 1.0
    drop: float = 0.1

    category = "reparameter"
    space = {"rank": [8, 16, 32], "scale": [0.1, 0.5, 1.0, 5.0, 10.0], "drop": [0.0, 0.1]}
    mergeable = True

    def check(self, host: Host) -> None:
        self.need_square(host)
        self.need_width("rank", host)
        for block in host.blocks:
            rows = block.size("fc1")[1]
            if block.hidden % block.dim or rows != block.hidden:
                raise UserError(
                    f"{self.registered_name()}: fc1 of {host.registered_name()} gives {rows} and fc2 reads "
                    f"{block.hidden}, not one multiple of its width {block.dim}: they cannot be cut into slices."
                )

    @staticmethod
    def cuts(block: Block) -> dict[str, tuple[int, int]]:
        """How each linear of a block is cut, into rows and columns."""
        ratio = block.hidden // block.dim
        return {"qkv": (3, 1), "proj": (1, 1), "fc1": (ratio, 1), "fc2": (1, ratio)}

    def slices(self, blocks: list[Block]) -> int:
        """Slices of some blocks; 12 for each where the hidden width is 4 C."""
        return sum(rows * columns for block in blocks for rows, columns in self.cuts(block).values())

    def stages(self, host: Host) -> list[list[Block]]:
        """The blocks that share factors."""
        return [list(group) for _, group in itertools.groupby(host.blocks, key=lambda block: block.stage)]

    @staticmethod
    def shared_name(host: Host, blocks: list[Block]) -> str:
        """Under which name their factors are kept: by the number of their stage among all of the host."""
        stages = list(dict.fromkeys(block.stage for block in host.whole.blocks))
        return f"shared{stages.index(blocks[0].stage)}"


@PEFT_METHODS.register_module(name="FacT-TT")
@dataclass(kw_only=True)
class FacTTT(FacT):
    __doc__ = f"Tensor train: every S_j (r, r) is learnt itself. {FacT.__doc__}"
    paper = "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer, AAAI 2023 (FacT-TT)"

    def build(self, host: Host) -> None:
        for blocks in self.stages(host):
            shared = SharedFactors(blocks[0].dim, self.rank, slices=0)
            host.keep(shared, self.shared_name(host, blocks))
            for block in blocks:
                for site, cut in self.cuts(block).items():
                    block.place(site, "parallel", TrainSlices(shared, cut, self.scale, self.drop), site)

    def count(self, host: Host) -> int:
        r = self.rank
        return sum(2 * blocks[0].dim * r + self.slices(blocks) * r * r for blocks in self.stages(host))


@PEFT_METHODS.register_module(name="FacT-TK")
@dataclass(kw_only=True)
class FacTTK(FacT):
    __doc__ = f"""Tucker: a shared core C (r, r, r) and a third factor P (r, slices) make every S_j: ``C x_3 P_j``.
    {FacT.__doc__}
        layout: How the slices of fc1 and of fc2 are cut out of ``C x_3 P``, ``(r, r, 4)``. ``slices`` as in the paper's
            equation, ``official`` as in the released code (fact_tk.py), which reads it as ``(r, 4 r)`` so that slice j
            is made of all four: published numbers and released files rest on it, and configs/vtab take it.
    """

    rank: int = 32
    layout: str = "slices"

    paper = "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer, AAAI 2023 (FacT-TK)"

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_choice("layout", LAYOUTS)

    def build(self, host: Host) -> None:
        for blocks in self.stages(host):
            shared = SharedFactors(blocks[0].dim, self.rank, self.slices(blocks))
            host.keep(shared, self.shared_name(host, blocks))
            first = 0
            for block in blocks:
                for site, cut in self.cuts(block).items():
                    interleaved = self.layout == "official" and site in ("fc1", "fc2")
                    module = TuckerSlices(shared, cut, self.scale, self.drop, first, interleaved)
                    block.place(site, "parallel", module, site)
                    first += math.prod(cut)

    def count(self, host: Host) -> int:
        r = self.rank
        return sum(2 * blocks[0].dim * r + self.slices(blocks) * r + r**3 for blocks in self.stages(host))
