"""Selective tuning: some blocks, or one kind of layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from vpeft.core.backbones.block import Block, HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.stated_linear import SlicedLinear
from vpeft.core.contract.method import Method
from vpeft.core.contract.search_space import LOW_LR
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS


def size(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def block_size(block: Block) -> int:
    """Parameters of a block's own: ``12 C^2 + 13 C`` with biases and a hidden width of 4 C, tables on top."""
    return sum(p.param.numel() for p in block.host.parameters() if p.block is block and p.role != "unused")


@dataclass(kw_only=True)
class Selective(Method):
    """Trains the base's own parameters of chosen blocks."""

    category = "specification"
    paper = "Lessons and Insights from a Unifying Study of PEFT in Visual Recognition, 2409.16434"
    space = {"lr": LOW_LR}
    memory = "M2w"
    mergeable = True


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class PartialK(Selective):
    """The last ``k`` blocks are trained whole; nothing below them needs a gradient.

    Args:
        k: How many.
    """

    k: int = 1

    paper = "How transferable are features in deep neural networks?, NeurIPS 2014 (as Partial-1 in VPT, ECCV 2022)"
    space = {"lr": LOW_LR, "k": [1, 2, 4]}
    memory = "M1w"

    def check(self, host: Host) -> None:
        if self.k >= len(host.blocks):
            raise UserError(
                f"PartialK: k={self.k} leaves no frozen block of the {len(host.blocks)} of {host.registered_name()}: "
                "use Full, or BlockTune(blocks=...)."
            )

    def trains(self, param: HostParam) -> bool:
        own = param.block is not None and param.role != "unused"
        return own and param.block in param.block.host.blocks[-self.k :]

    def count(self, host: Host) -> int:
        return sum(block_size(block) for block in host.blocks[-self.k :])


@dataclass(kw_only=True)
class BlockChoice(Selective):
    """Trains chosen blocks, or a part of them.

    Args:
        blocks: Indices of the blocks, negative ones from the end; None means all.
    """

    blocks: tuple[int, ...] | None = None

    limits = {"blocks": (-10_000, 10_000)}

    def check(self, host: Host) -> None:
        count = len(host.blocks)
        if self.blocks is not None and (not self.blocks or not all(-count <= i < count for i in self.blocks)):
            raise UserError(
                f"{self.registered_name()}: blocks={self.blocks!r} must name blocks of {host.registered_name()}, from "
                f"{-count} to {count - 1}."
            )

    def chosen(self, host: Host) -> list[Block]:
        if self.blocks is None:
            return list(host.blocks)
        return [host.blocks[i] for i in sorted({i % len(host.blocks) for i in self.blocks})]


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class BlockTune(BlockChoice):
    __doc__ = f"The chosen blocks are trained whole. {BlockChoice.__doc__}"

    def trains(self, param: HostParam) -> bool:
        own = param.block is not None and param.role != "unused"
        return own and param.block in self.chosen(param.block.host)

    def count(self, host: Host) -> int:
        return sum(block_size(block) for block in self.chosen(host))


@dataclass(kw_only=True)
class LayerTune(BlockChoice):
    """Trains the linears of one kind of layer of the chosen blocks."""

    sites: ClassVar[tuple[str, ...]]

    def check(self, host: Host) -> None:
        super().check(host)
        if not all(name in block.sites for block in self.chosen(host) for name in self.sites):
            raise UserError(
                f"{self.registered_name()}: blocks of {host.registered_name()} have no {' and '.join(self.sites)}."
            )

        if any(isinstance(m, SlicedLinear) for block in self.chosen(host) for _, m in block.linears(*self.sites)):
            raise UserError(
                f"{self.registered_name()}: a linear of the blocks of {host.registered_name()} is of attention and MLP "
                "at once, and cannot be trained for one of them: use BlockTune."
            )

    def trains(self, param: HostParam) -> bool:
        return param.site in self.sites and param.block in self.chosen(param.block.host)

    def count(self, host: Host) -> int:
        return sum(size(block.sites[name].module) for block in self.chosen(host) for name in self.sites)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class AttentionTune(LayerTune):
    __doc__ = f"The attention's linears (qkv, proj) of the chosen blocks are trained. {BlockChoice.__doc__}"
    sites = ("qkv", "proj")


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class MLPTune(LayerTune):
    __doc__ = f"The MLP's linears (fc1, fc2) of the chosen blocks are trained. {BlockChoice.__doc__}"
    sites = ("fc1", "fc2")
