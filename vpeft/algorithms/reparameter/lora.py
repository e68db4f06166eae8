"""LoRA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from vpeft.algorithms.reparameter.targets import OnTargets, Rows
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.convolution import Convolution, convolve
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.backbones.sites.site import Site, channels_last
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.errors import UserError, closest
from vpeft.registry import PEFT_METHODS


class LowRank(nn.Module):
    """Low-rank updates of some row ranges of one linear, computed as one pair of matrix products.

    Args:
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) that each target updates.
        rank: r of each target.
        scale: alpha / r.
        drop: Dropout on the input of A.
    """

    def __init__(self, size: tuple[int, int], rows: Rows, rank: int, scale: float, drop: float) -> None:
        super().__init__()
        inputs, self.out_features = size
        self.rows, self.rank, self.scale = rows, rank, scale
        self.drop = nn.Dropout(drop)
        self.down = nn.ParameterDict({t: torch.empty(rank, inputs) for t in rows})
        self.up = nn.ParameterDict({t: torch.empty(last - first, rank) for t, (first, last) in rows.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A Kaiming-uniform with a = sqrt 5, B zero."""
        for target in self.rows:
            nn.init.kaiming_uniform_(self.down[target], a=math.sqrt(5))
            nn.init.zeros_(self.up[target])

    def factors(self) -> tuple[Tensor, Tensor]:
        """A of all targets ``(targets * r, in)``, and B of all rows ``(out, targets * r)``, zero where not targeted."""
        if list(self.rows.values()) == [(0, self.out_features)]:
            (target,) = self.rows
            return self.down[target], self.up[target]
        down = torch.cat([self.down[t] for t in self.rows])
        if in_program():
            pads = ((i * self.rank, first, last) for i, (first, last) in enumerate(self.rows.values()))
            up = sum(
                F.pad(self.up[t], (left, len(down) - left - self.rank, first, self.out_features - last))
                for t, (left, first, last) in zip(self.rows, pads, strict=True)
            )
            return down, up
        up = down.new_zeros(self.out_features, down.shape[0])
        for i, (target, (first, last)) in enumerate(self.rows.items()):
            up[first:last, i * self.rank : (i + 1) * self.rank] = self.up[target]
        return down, up

    def pair(self, first: int, last: int) -> tuple[Tensor, Tensor] | None:
        """A and B ``(last - first, r)`` of the update of these rows alone, r of each target there; None without any."""
        inside = [t for t, (start, end) in self.rows.items() if start < last and first < end]
        if not inside:
            return None
        down, up = self.factors()
        places = [list(self.rows).index(t) for t in inside]
        columns = torch.cat([torch.arange(i * self.rank, (i + 1) * self.rank, device=up.device) for i in places])
        return down[columns], up[first:last, columns]

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        down, up = self.factors()
        return F.linear(F.linear(self.dropped(x), down), up) * self.scale

    def dropped(self, x: Tensor) -> Tensor:
        return self.drop(x) if self.drop.p else x

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y + scale * B A x``, written into ``y``, which the linear has just made and nobody else reads."""
        down, up = self.factors()
        code = F.linear(self.dropped(x), down).to(y.dtype).flatten(0, -2)
        up = up.to(y.dtype).t()
        # A tracer sees what is returned, not what is written into a view, and no grad_fn. Otherwise y may be kept by a
        # method placed before, whose gradient needs it.
        if in_program() or isinstance(y.grad_fn, BackwardCFunction):
            return torch.addmm(y.flatten(0, -2), code, up, alpha=self.scale).view(y.shape)
        if not y.is_contiguous():  # a transposed view, as of a map whose channels are first: it stays one
            return y.add((code @ up).view(y.shape), alpha=self.scale)
        # Not y itself: torch would take it for a leaf if what follows writes into it too, as an in-place ReLU does.
        return y.view(-1, self.out_features).addmm_(code, up, alpha=self.scale).view(y.shape)

    def affine(self) -> tuple[Tensor, None]:
        """The dense update ``scale * B A``, and no shift."""
        down, up = self.factors()
        return self.scale * (up.double() @ down.double()), None


class LowRankConv(nn.Module):
    """The low-rank update of a convolution: its own kernel's extents down to r channels, then 1x1 up.

    A is shared by the groups of its channels, so that ``B A`` is the update of the weight with its rows flattened.

    Args:
        module: The convolution; its sizes and settings are read.
        rank: r.
        scale: alpha / r.
        drop: Dropout on the input of A.
    """

    def __init__(self, module: nn.modules.conv._ConvNd, rank: int, scale: float, drop: float) -> None:
        super().__init__()
        self.convolution, self.scale = Convolution(module), scale
        self.drop = nn.Dropout(drop)
        self.down = nn.Parameter(torch.empty(rank, *module.weight.shape[1:]))
        self.up = nn.Parameter(torch.empty(module.weight.shape[0], rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A Kaiming-uniform with a = sqrt 5, B zero."""
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        nn.init.zeros_(self.up)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        groups, extents = self.convolution.groups, self.down.dim() - 2
        x = self.drop(x) if self.drop.p else x
        code = self.convolution(x, self.down.repeat(groups, *[1] * (extents + 1)))
        up = self.up.view(*self.up.shape, *[1] * extents)
        return channels_last(convolve(code, up, groups=groups)) * self.scale

    def factors(self) -> tuple[Tensor, Tensor]:
        """A ``(r, in / groups * extents)`` and B ``(out, r)`` of the weight with its rows flattened."""
        return self.down.flatten(1), self.up

    def affine(self) -> tuple[Tensor, None]:
        """The update of the weight with its rows flattened, and no shift."""
        down, up = self.factors()
        return self.scale * (up.double() @ down.double()), None


def _rows_and_columns(site: Site) -> tuple[int, int]:
    """Rows of the weight of a site, and the numbers in one: of a convolution, that in one group."""
    weight = site.module.weight
    return weight.shape[0], weight[0].numel()


def _ends(name: str) -> set[str]:
    """A dotted name and its ends: ``b.c`` and ``c`` of ``a.b.c``."""
    parts = name.split(".")
    return {".".join(parts[first:]) for first in range(len(parts))}


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class LoRA(OnTargets):
    """``W <- W0 + (alpha / r) B A``, A (r, in), B (out, r); on a fused qkv each of q, k, v has a pair of its own.

    A convolution's A has the extents of its kernel: (r, in / groups, ...).

    Args:
        rank: r.
        alpha: Numerator of the scale; None means r, a scale of 1.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint pair; on a host without blocks names of
            its linears and convolutions, or ends of these (``conv2``). None means q and v, in a block without
            attention fc1 and fc2, and on a host without blocks every linear and convolution of at least r rows and
            columns.
        drop: Dropout on the input of A.
    """

    rank: int = 8
    alpha: float | None = None
    targets: tuple[str, ...] | None = None
    drop: float = 0.0

    category = "reparameter"
    paper = "LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, Section 4.1"
    space = {"rank": [2, 4, 8, 16], "alpha": [4.0, 8.0, 16.0, 32.0], "drop": [0.0, 0.1]}
    mergeable = True
    needs_blocks = False

    def check(self, host: Host) -> None:
        super().check(host)
        if host.blocks:
            self.need_width("rank", host)
        elif self.targets is not None:
            chosen = self.operations(host).values()
            self.need_width("rank", host, [min(_rows_and_columns(site)) for site in chosen])
        elif not self.operations(host):
            some = "; ".join(f"{name} ({why})" for name, why in list(host.left_out.items())[:2])
            above = (
                f"rank={self.rank} is above the widths of all linears and convolutions that can be adapted: lower it."
            )
            none = "no linear and no convolution of this network can be adapted."
            raise UserError(
                f"{self.registered_name()}: {above if host.operations('linear', 'conv') else none}"
                f"{f' Left out: {some}, {len(host.left_out)} in all.' if some else ''}"
            )

    @property
    def scale(self) -> float:
        """What ``B A`` is multiplied by."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    def update(self, site: Site, rows: Rows) -> nn.Module:
        """The module that updates some row ranges of a linear, or a whole convolution."""
        module, extents = site.module, ()
        if isinstance(module, StatedLinear):  # without putting its parts together
            out, inputs = module.out_features, module.in_features
        else:
            out, inputs, *extents = module.weight.shape
        if extents and site.index is None:
            return LowRankConv(site.module, self.rank, self.scale, self.drop)
        return LowRank((inputs, out), rows, self.rank, self.scale, self.drop)

    def build(self, host: Host) -> None:
        for name, place, site, rows in self.updated(host):
            place(name, "parallel", self.update(site, rows), name.replace(".", "_"))

    def updated(self, host: Host) -> Iterator[tuple[str, Callable[..., None], Site, Rows]]:
        """Of every linear or convolution that it updates: name, what places a module there, site, rows by target."""
        for block, site, rows in self.linears(host):
            yield site, block.place, block.sites[site], rows
        for name, site in self.operations(host).items():
            yield name, host.place, site, {"weight": (0, _rows_and_columns(site)[0])}

    def operations(self, host: Host) -> dict[str, Site]:
        """The linears and convolutions outside blocks that it updates, by name."""
        every = host.operations("linear", "conv")
        if not every or self.targets is None:
            return {name: site for name, site in every.items() if min(_rows_and_columns(site)) >= self.rank}
        self.need_choice("targets", self.targets)
        for target in self.targets:
            if not any(target in _ends(name) for name in every):
                near = closest(target, {end for name in every for end in _ends(name)})
                raise UserError(
                    f"{self.registered_name()}: targets={self.targets!r}: this {type(host.backbone).__name__} has no "
                    f"linear or convolution {target!r}{f' (did you mean {near!r}?)' if near else ''} that the "
                    f"{host.registered_name()} host can adapt; it has {len(every)}, such as "
                    f"{', '.join(list(every)[:3])}."
                )
        return {name: site for name, site in every.items() if not _ends(name).isdisjoint(self.targets)}

    def count(self, host: Host) -> int:
        # r rows of A, as long as the linear's inputs, and r columns of B, as long as the rows that are updated.
        return self.rank * (sum(inputs for inputs, _ in self.widths(host)) + self.updated_rows(host))

    def widths(self, host: Host) -> Iterator[tuple[int, int]]:
        """Inputs and updated rows of every target, in blocks and outside."""
        yield from self.sizes(host)
        yield from (_rows_and_columns(site)[::-1] for site in self.operations(host).values())

    def updated_rows(self, host: Host) -> int:
        """Rows of all linears and convolutions that it updates, once for each target."""
        return sum(rows for _, rows in self.widths(host))
