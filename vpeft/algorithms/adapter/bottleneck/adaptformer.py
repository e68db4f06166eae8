"""AdaptFormer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vpeft.algorithms.modules.bottleneck import Bottleneck
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS


class ParallelAdapter(Bottleneck):
    """``scale * bottleneck(x)``, added to a residual unit."""

    def __init__(self, dim: int, width: int, scale: float, **kwargs) -> None:
        super().__init__(dim, width, **kwargs)
        self.scale = scale

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return super().forward(x) * self.scale

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y + scale * bottleneck(x)`` without the scaled copy."""
        return y.add(super().forward(x), alpha=self.scale)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class AdaptFormer(Method):
    """``x <- x + DP(MLP(LN2 x)) + s (W_up Drop(ReLU(W_dn x + b_dn)) + b_up)``, x being the input of LN2.

    Parallel to the whole of LN2 and MLP, added outside DropPath.

    Args:
        bottleneck: Width r of the hidden code. The paper's is 64, that of the VTAB convention 8.
        scale: s, fixed.
        drop: Dropout on the hidden code.
        bias: Whether b_dn and b_up are there. Bi-AdaptFormer (``configs/vtab/bi_adaptformer_vit.py``) has none.
    """

    bottleneck: int = 64
    scale: float = 0.1
    drop: float = 0.1
    bias: bool = True

    category = "adapter"
    paper = "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition, NeurIPS 2022, Section 3.2"
    space = {"bottleneck": [4, 8, 16, 32, 64], "scale": [0.05, 0.1, 0.5, 1.0], "drop": [0.0, 0.1]}

    def check(self, host: Host) -> None:
        self.need_width("bottleneck", host)

    def build(self, host: Host) -> None:
        for block in host.blocks:
            settings = {"act": "relu", "drop": self.drop, "bias": self.bias}
            module = ParallelAdapter(block.dim, self.bottleneck, self.scale, **settings)
            block.place("mlp_residual", "parallel", module, "mlp")

    def count(self, host: Host) -> int:
        r = self.bottleneck
        return sum(r * 2 * b.dim + (r + b.dim) * self.bias for b in host.blocks)
