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
    needs_all_blocks = "k says how many of the last blocks are trained; BlockTune(blocks=...) trains others"

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
    """Trains the base's own blocks, or a part of them: all, or those that ``blocks=`` names."""


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class BlockTune(BlockChoice):
    __doc__ = f"The chosen blocks are trained whole. {BlockChoice.__doc__}"

    def trains(self, param: HostParam) -> bool:
        return param.block is not None and param.role != "unused"

    def count(self, host: Host) -> int:
        return sum(block_size(block) for block in host.blocks)


@dataclass(kw_only=True)
class LayerTune(BlockChoice):
    """Trains the linears of one kind of layer of the chosen blocks."""

    sites: ClassVar[tuple[str, ...]]

    def check(self, host: Host) -> None:
        if not all(name in block.sites for block in host.blocks for name in self.sites):
            raise UserError(
                f"{self.registered_name()}: blocks of {host.registered_name()} have no {' and '.join(self.sites)}."
            )

        if any(isinstance(m, SlicedLinear) for block in host.blocks for _, m in block.linears(*self.sites)):
            raise UserError(
                f"{self.registered_name()}: a linear of the blocks of {host.registered_name()} is of attention and MLP "
                "at once, and cannot be trained for one of them: use BlockTune."
            )

    def trains(self, param: HostParam) -> bool:
        return param.site in self.sites and param.block is not None

    def count(self, host: Host) -> int:
        return sum(size(block.sites[name].module) for block in host.blocks for name in self.sites)


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
