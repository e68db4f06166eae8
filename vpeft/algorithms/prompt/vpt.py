"""Visual prompt tuning, shallow and deep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from vpeft.algorithms.modules.stateless import Stateless
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.core.contract.search_space import HIGH_LR
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS


class Prompts(nn.Module):
    """Puts trained tokens ``(length, dim)`` between the stream's prefix and its map; they decay as weights do."""

    def __init__(self, length: int, dim: int, bound: float, drop: float) -> None:
        super().__init__()
        self.bound = bound
        self.weight = nn.Parameter(torch.empty(length, dim))
        self.drop = nn.Dropout(drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in (-bound, bound)."""
        nn.init.uniform_(self.weight, -self.bound, self.bound)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        tokens = self.drop(self.weight.expand(x.shape[0], -1, -1))
        return insert(x, tokens.to(x.dtype), flow)


class CarryIn(Stateless):
    """Puts the prompts that left the block before into the stream, through the patch merging between two stages."""

    def __init__(self, key: str, host: Host, merge: int | None) -> None:
        super().__init__()
        self.key, self.host, self.merge = key, host, merge

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        tokens = flow.state[self.key][flow.index - 1]
        if self.merge is not None:
            tokens = self.host.run_base(partial(self.host.downsample_tokens, self.merge), tokens)
        return insert(x, tokens, flow)


class TakeOut(Stateless):
    """Takes the prompts out of the stream behind a block; with ``keep`` for whoever comes next."""

    def __init__(self, key: str, length: int, keep: bool) -> None:
        super().__init__()
        self.key, self.length, self.keep = key, length, keep

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        last = flow.prefix
        flow.prefix = first = last - self.length
        if self.keep:
            flow.state.setdefault(self.key, {})[flow.index] = x[:, first:last]
        return torch.cat((x[:, :first], x[:, last:]), dim=1) if first else x[:, last:]


class JoinPool(Stateless):
    """Takes the prompts of the last block along through the output norm ..."""

    def __init__(self, key: str, last: int) -> None:
        super().__init__()
        self.key, self.last = key, last

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        tokens = flow.state.get(self.key, {}).get(self.last)
        if tokens is None:  # the norm reads an earlier block
            return x
        return torch.cat((tokens, x.reshape(x.shape[0], -1, x.shape[-1])), dim=1)


class SpreadPool(Stateless):
    """... and spreads them over the map, so that the head's mean over the map is the mean over map and prompts."""

    def __init__(self, key: str, last: int, length: int, flat: bool) -> None:
        super().__init__()
        self.key, self.last, self.length, self.flat = key, last, length, flat

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        if self.last not in flow.state.get(self.key, {}):
            return y
        if flow.masked and not flow.grid:
            raise UserError(
                "the head's mean runs over the prompts too (pool_prompts), and over which of the tokens is not known "
                "where they lie on no one map (padding): set pool_prompts=False, or give whole images."
            )
        first = self.length + flow.own_prefix
        prompts, own, tokens = y[:, : self.length], y[:, self.length : first], y[:, first:]
        count = tokens.shape[1]
        tokens = (tokens * count + prompts.sum(1, keepdim=True)) / (count + self.length)
        if own.shape[1]:  # what the mean leaves out
            tokens = torch.cat((own, tokens), dim=1)
        return tokens if self.flat else tokens.unflatten(1, flow.grid)


def insert(x: Tensor, tokens: Tensor, flow: Flow) -> Tensor:
    """Put ``tokens`` behind the stream's own prefix, to which they count from now on.

    Those of a method placed later stand in front, so each method takes its own out at the end of the prefix.
    """
    first = flow.own_prefix
    flow.prefix += tokens.shape[1]
    return torch.cat((x[:, :first], tokens, x[:, first:]), dim=1)


def prompt_bound(host: Host) -> float:
    """``sqrt(6 / (3 ph pw + D))``: Xavier's bound for a patch embedding; ``D`` is its width in every stage."""
    return math.sqrt(6 / (host.in_channels * math.prod(host.patch_size) + host.blocks[0].dim))


@dataclass(kw_only=True)
class VPT(Method):
    """What both forms share.

    Args:
        prompt_length: Prompts p.
        drop: Dropout on the prompts.
        pool_prompts: Where the head reads the mean of the map (as Swin's does), let the mean run over map and prompts,
            as the authors' code does. Without effect on hosts whose head reads a class token.
    """

    prompt_length: int = 50
    drop: float = 0.0
    pool_prompts: bool = True

    category = "prompt"
    space = {"lr": HIGH_LR, "prompt_length": [1, 5, 10, 50, 100], "drop": [0.0, 0.1]}
    identity_at_start = False
    base_eval = True

    def check(self, host: Host) -> None:
        self.need_tokens(host)

    def bound(self, host: Host) -> float:
        """``sqrt(6 / (3 ph pw + D))``: Xavier's bound for a patch embedding; ``D`` is its width in every stage."""
        return math.sqrt(6 / (host.in_channels * math.prod(host.patch_size) + host.whole.blocks[0].dim))

    def prompts(self, host: Host, block: Block) -> Prompts:
        return Prompts(self.prompt_length, block.dim_in, prompt_bound(host), self.drop)

    def place_out(self, host: Host, block: Block, keep: bool) -> None:
        keep = keep or (block is host.blocks[-1] and self.pools(host))
        block.place("block", "after", TakeOut(host.method_key, self.prompt_length, keep), "out")

    def pools(self, host: Host) -> bool:
        """Whether the head's mean runs over the prompts too."""
        return bool(host.pools_map and self.pool_prompts and host.output_norms and host.blocks[-1].takes_tokens)

    def place_pool(self, host: Host) -> None:
        if self.pools(host):
            norm, key, last = host.output_norms[-1], host.method_key, host.blocks[-1].index
            host.place(norm, "before", JoinPool(key, last), "join")
            host.place(norm, "after", SpreadPool(key, last, self.prompt_length, host.flat_stream), "spread")


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class VPTShallow(VPT):
    __doc__ = f"""``p`` prompts enter the first block behind the prefix, ``[CLS; P; patches]``, without position
    embedding, and evolve freely from block to block. In windowed attention every window gets them; they are averaged
    over the windows of their image, and pass a patch merging as four copies side by side.
    {VPT.__doc__}"""
    paper = "Visual Prompt Tuning, ECCV 2022, Section 3.2, Eq. 4-6"
    in_a_row = True

    def check(self, host: Host) -> None:
        super().check(host)
        if not host.carries_tokens:
            raise UserError(
                f"{self.registered_name()}: between the stages of {host.registered_name()} a convolution embeds the "
                "map, which prompts cannot pass. VPTDeep gives every block its own."
            )

    def build(self, host: Host) -> None:
        before = None
        for block in host.blocks:
            if before is None:
                block.place("block", "before", self.prompts(host, block), "prompts")
            else:
                merge = block.stage if block.stage != before.stage and block.stage in host.downsamples else None
                block.place("block", "before", CarryIn(host.method_key, host, merge), "carry")
            self.place_out(host, block, keep=True)
            before = block
        self.place_pool(host)

    def count(self, host: Host) -> int:
        return self.prompt_length * host.blocks[0].dim_in


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class VPTDeep(VPT):
    __doc__ = f"""Every block with attention gets ``p`` prompts of its own; those that leave a block are thrown away. In
    windowed attention every window gets them, and they are averaged over the windows of their image.
    {VPT.__doc__}"""
    paper = "Visual Prompt Tuning, ECCV 2022, Section 3.2, Eq. 7-8"

    def check(self, host: Host) -> None:
        if not self.prompted(host):
            self.need_tokens(host)

    @staticmethod
    def prompted(host: Host) -> list[Block]:
        """The blocks that take prompts."""
        return [block for block in host.blocks if block.takes_tokens]

    def build(self, host: Host) -> None:
        for block in self.prompted(host):
            block.place("block", "before", self.prompts(host, block), "prompts")
            self.place_out(host, block, keep=False)
        self.place_pool(host)

    def count(self, host: Host) -> int:
        return self.prompt_length * sum(block.dim_in for block in self.prompted(host))
