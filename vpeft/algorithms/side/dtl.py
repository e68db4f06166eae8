"""DTL and DTL+: disentangled transfer learning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.algorithms.modules.stateless import Stateless
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

READ_OUTS = ("host", "mean")


class SideLinear(nn.Module):
    """``e <- e + B A x`` with the input x of its block; A (r, C), B (C, r); e is 0 at the start of a stage."""

    def __init__(self, key: str, dim: int, rank: int, first: bool) -> None:
        super().__init__()
        self.key, self.first = key, first
        self.down = nn.Parameter(torch.empty(rank, dim))
        self.up = nn.Parameter(torch.empty(dim, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A Kaiming-uniform with a = sqrt 5, B zero."""
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        nn.init.zeros_(self.up)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        state = flow.state.setdefault(self.key, {})
        change = x @ self.down.t() @ self.up.t()
        state[flow.index] = change if self.first else state[flow.index - 1] + change
        return x


class SideConv(nn.Conv2d):
    """The depthwise convolution of DTL+, shared by the blocks of a stage."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__(dim, dim, kernel, padding="same", groups=dim, bias=False)


class SideOut(Stateless):
    """``x <- x + g(e)``, ``g(e) = e sigmoid(beta e)``, its map through the shared convolution with DTL+."""

    def __init__(self, key: str, beta: float, conv: SideConv | None) -> None:
        super().__init__()
        self.key, self.beta = key, beta
        self.conv = (conv,)  # in a tuple, so that torch does not register it a second time

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        e = flow.state[self.key][flow.index]
        e = e * torch.sigmoid(self.beta * e)
        (conv,) = self.conv
        if conv is not None:
            prefix, spatial = flow.split(e)
            e = flow.join(prefix, conv(spatial))
        return x + e


class MeanToken(Stateless):
    """Puts the mean of the map's tokens in the place of the class token, in front of the output norm."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.need_unmasked()
        return torch.cat((x[:, self.prefix :].mean(1, keepdim=True), x[:, 1:]), dim=1)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class DTL(Method):
    """A side state e (0 at first): before block i ``e <- e + B_i A_i x_i``; after the blocks from ``first_out`` on
    ``x <- x + e sigmoid(beta e)``. Nothing below the first of these needs a gradient. On a host with stages e starts
    anew in each, as its width changes.

    Args:
        rank: r.
        beta: Steepness of the gate.
        first_out: First block, from 0, whose output is changed; None means the first of the upper half. The authors
            take 6 of 12 on ViT-B, 14 of 24 on Swin-B.
        first_in: First block whose input e reads; None means the first of the stage of ``first_out`` (ViT-B 0, Swin-B
        4). read_out: ``host`` leaves the head what it reads; ``mean`` gives a head that reads the class token the mean
        of
            the map's tokens, pooled before the final norm, as the authors do.
    """

    rank: int = 2
    beta: float = 100.0
    first_out: int | None = None
    first_in: int | None = None
    read_out: str = "host"

    category = "side"
    paper = "DTL: Disentangled Transfer Learning for Visual Recognition, AAAI 2024"
    space = {"rank": [1, 2, 4, 8], "beta": [10.0, 100.0]}
    limits = {"first_out": (0, 10_000), "first_in": (0, 10_000)}
    memory = "M1"
    needs_all_blocks = "where its side state begins and where it acts is what first_in and first_out say"
    kernel = 0

    def out(self, host: Host) -> int:
        """The first block whose output is changed."""
        return len(host.blocks) // 2 if self.first_out is None else self.first_out

    def start(self, host: Host) -> int:
        """The first block whose input is read."""
        if self.first_in is not None:
            return self.first_in
        stage = host.blocks[self.out(host)].stage
        return next(block.index for block in host.blocks if block.stage == stage)

    def check(self, host: Host) -> None:
        self.need_width("rank", host)
        self.need_choice("read_out", READ_OUTS)
        blocks, name = len(host.blocks), self.registered_name()
        if not 0 < self.out(host) < blocks:
            raise UserError(
                f"{name}: first_out={self.first_out!r} must be from 1 to {blocks - 1} on {host.registered_name()}."
            )
        stage = host.blocks[self.out(host)].stage
        if not 0 <= self.start(host) <= self.out(host) or host.blocks[self.start(host)].stage != stage:
            raise UserError(
                f"{name}: first_in={self.first_in!r} must be a block of the stage of first_out={self.out(host)} on "
                f"{host.registered_name()}, and not above it: what is read in an earlier stage would reach nothing."
            )
        for block in host.blocks[self.start(host) :]:
            if block.dim_in != block.dim:
                raise UserError(
                    f"{name} adds to a block's output what it reads of the block's input; block {block.index} of "
                    f"{host.registered_name()} takes the width {block.dim_in} and gives {block.dim}."
                )
        if self.read_out == "mean" and not host.pools_map and not host.prefix:
            raise UserError(f"{name}: read_out='mean' needs a class token, which this {host.registered_name()} lacks.")

    def build(self, host: Host) -> None:
        convs: dict[int, SideConv] = {}
        before = None
        for block in host.blocks[self.start(host) :]:
            module = SideLinear(host.method_key, block.dim, self.rank, before != block.stage)
            block.place("block", "before", module, "side")
            before = block.stage
            if self.kernel and block.stage not in convs:
                convs[block.stage] = SideConv(block.dim, self.kernel)
                host.keep(convs[block.stage], f"conv{block.stage}")
            if block.index >= self.out(host):
                out = SideOut(host.method_key, self.beta, convs.get(block.stage))
                block.place("block", "after", out, "out")
        if self.read_out == "mean" and not host.pools_map:
            host.place("norm.0", "before", MeanToken(host.prefix), "mean")

    def count(self, host: Host) -> int:
        blocks = host.blocks[self.start(host) :]
        convs = {b.stage: self.kernel**2 * b.dim for b in blocks}
        return sum(2 * b.dim * self.rank for b in blocks) + sum(convs.values())


@PEFT_METHODS.register_module(name="DTL+")
@dataclass(kw_only=True)
class DTLPlus(DTL):
    __doc__ = f"""The map of the side state passes a depthwise convolution before it is added, shared by the blocks of a
    stage; its start is torch's own.

    {DTL.__doc__}
        kernel: Its size k; the map keeps its own, with one more row of zeros behind it than before it where k is even.
            The authors take 3, 4 or 5 by task on ViT-B, 5 on Swin-B.
    """

    kernel: int = 3

    space = {**DTL.space, "kernel": [3, 5]}
