"""BAPAT: PATT in attention, AdaptFormer's branch beside the MLP."""

from __future__ import annotations

from dataclasses import dataclass

from vpeft.algorithms.adapter.bottleneck.adaptformer import ParallelAdapter
from vpeft.algorithms.modules.bottleneck import Bottleneck
from vpeft.algorithms.prefix.patt import PATT
from vpeft.core.backbones.host import Host
from vpeft.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class BAPAT(PATT):
    __doc__ = f"""PATT and a parallel bottleneck ``s_f (W_up Drop(ReLU(W_dn n + b_dn)) + b_up)`` on the MLP branch, n
    the output of LN2 (the authors build it into the MLP), inside DropPath.

    Args:
        bottleneck: Width r of the MLP's branch.
        ffn_scale: s_f.
        drop: Dropout on the branch's hidden code.

    PATT: {PATT.__doc__}"""

    bottleneck: int = 64
    ffn_scale: float = 0.1
    drop: float = 0.0

    category = "unified"
    paper = "Towards a Unified View on Visual Parameter-Efficient Transfer Learning (V-PETL), 2210.00788"

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_width("bottleneck", host)

    def build(self, host: Host) -> None:
        super().build(host)
        for block in host.blocks:
            module = ParallelAdapter(block.dim, self.bottleneck, self.ffn_scale, act="relu", drop=self.drop)
            block.place("mlp_branch", "parallel", module, "mlp")

    def count(self, host: Host) -> int:
        return super().count(host) + sum(Bottleneck.count(b.dim, self.bottleneck) for b in host.blocks)
