"""SNF: the shortcut as a normalising flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import STARTS, Method
from vpeft.registry import PEFT_METHODS


class ShortcutFlow(nn.Module):
    """``z <- mu + exp(lambda) z``, then K planar steps ``z <- z + u tanh(w^T z + c)``."""

    weight_decay = False

    def __init__(self, dim: int, steps: int, identity: bool) -> None:
        super().__init__()
        self.identity = identity
        self.shift = nn.Parameter(torch.empty(dim))
        self.log_scale = nn.Parameter(torch.empty(dim))
        self.direction = nn.Parameter(torch.empty(steps, dim)) if steps else None
        self.weight = nn.Parameter(torch.empty(steps, dim)) if steps else None
        self.offset = nn.Parameter(torch.empty(steps)) if steps else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """mu and lambda zero; u, w, c uniform in (-0.01, 0.01), u zero for a start as the frozen host."""
        nn.init.zeros_(self.shift)
        nn.init.zeros_(self.log_scale)
        if self.weight is not None:
            for param in (self.direction, self.weight, self.offset):
                nn.init.uniform_(param, -0.01, 0.01)
            if self.identity:
                nn.init.zeros_(self.direction)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = torch.addcmul(self.shift.to(x.dtype), x, self.log_scale.exp().to(x.dtype))
        if self.weight is None:
            return x
        for u, w, c in zip(self.direction, self.weight, self.offset, strict=True):
            x = x + torch.tanh(F.linear(x, w[None], c[None])) * u
        return x


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class SNF(Method):
    """``x <- NF_1(x) + DP(MHSA(LN1 x))``, ``x <- NF_2(x) + DP(MLP(LN2 x))``: only the shortcut is transformed, by
    ``z <- mu + exp(lambda) z`` and K planar steps ``z <- z + u tanh(w^T z + c)``.

    The authors' forward of CLIP's and timm's ViT leaves DropPath out of the branches, that of EVA keeps it; here it
    stays. Their log-determinant term is thrown away
    by their own blocks, and is not formed here.

    Args:
        steps: K. Their code's default is 16; 0 (affine only) fits the 0.036 M of the abstract.
        init: ``official`` starts the planar steps at small random values, so not exactly as the frozen host;
            ``identity`` starts u at zero.
    """

    steps: int = 1
    init: str = "official"

    category = "adapter"
    paper = "Adapting Shortcut with Normalizing Flow: An Efficient Tuning Framework for Visual Recognition, CVPR 2023"
    space = {"steps": [1, 2, 3]}
    limits = {"steps": (0, 1000)}
    identity_at_start = False
    unverified = (
        "The number of steps behind the published table and the recipe are unknown; no training code is public."
    )

    def check(self, host: Host) -> None:
        self.need_choice("init", STARTS)

    def build(self, host: Host) -> None:
        for block in host.blocks:
            for branch in block.units:
                module = ShortcutFlow(block.dim, self.steps, self.init == "identity")
                block.place(f"{branch}_residual", "shortcut", module, branch)

    def count(self, host: Host) -> int:
        return sum(len(b.units) * (2 * b.dim + self.steps * (2 * b.dim + 1)) for b in host.blocks)
