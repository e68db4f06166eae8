"""Adapter, in the placements of Houlsby and of Pfeiffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpeft.algorithms.modules.bottleneck import ACTIVATIONS, INITS, Bottleneck
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS


class SequentialAdapter(Bottleneck):
    """``x + scale * bottleneck(x)``."""

    def __init__(self, dim: int, width: int, scale: float, **kwargs) -> None:
        super().__init__(dim, width, **kwargs)
        self.scale = scale

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return x.add(super().forward(x), alpha=self.scale)


@dataclass(kw_only=True)
class Adapter(Method):
    """``A(x) = x + s (W_up act(W_dn x + b_dn) + b_up)`` on the output of a branch, before DropPath and the residual.

    Args:
        bottleneck: Width r of the hidden code.
        scale: s.
        act: ``gelu`` or ``relu``.
        drop: Dropout on the hidden code.
        init: ``identity`` starts as the frozen host; ``houlsby`` and ``xavier`` are the starts of the original code
            and of NOAH (:class:`~vpeft.algorithms.modules.bottleneck.Bottleneck`).
    """

    bottleneck: int = 8
    scale: float = 1.0
    act: str = "gelu"
    drop: float = 0.0
    init: str = "identity"

    category = "adapter"
    space = {"bottleneck": [4, 8, 16, 32], "scale": [0.1, 0.5, 1.0, 5.0]}
    branches: ClassVar[tuple[str, ...]]

    def check(self, host: Host) -> None:
        self.need_width("bottleneck", host)
        self.need_choice("act", ACTIVATIONS)
        self.need_choice("init", INITS)

    def places(self, block: Block) -> list[str]:
        """The branches of a block that get an adapter."""
        return [branch for branch in self.branches if branch in block.units]

    def build(self, host: Host) -> None:
        for block in host.blocks:
            for branch in self.places(block):
                module = SequentialAdapter(
                    block.dim, self.bottleneck, self.scale, act=self.act, drop=self.drop, init=self.init
                )
                block.place(f"{branch}_branch", "after", module, branch)

    def count(self, host: Host) -> int:
        r = self.bottleneck
        return sum(len(self.places(b)) * (r * (2 * b.dim + 1) + b.dim) for b in host.blocks)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class HoulsbyAdapter(Adapter):
    __doc__ = f"Houlsby's placement: after attention and after the MLP.\n\n    {Adapter.__doc__}"
    paper = "Parameter-Efficient Transfer Learning for NLP, ICML 2019"
    branches = ("attn", "mlp")


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class PfeifferAdapter(Adapter):
    __doc__ = f"Pfeiffer's placement: after the MLP only.\n\n    {Adapter.__doc__}"
    paper = "AdapterFusion: Non-Destructive Task Composition for Transfer Learning, EACL 2021"
    branches = ("mlp",)
