"""PATT: parallel attention, a prefix made from the tokens themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import QKV
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import STARTS, Method
from vpeft.registry import PEFT_METHODS

MODES = ("kv", "qv", "qk", "qkv")


class ParallelAttention(nn.Module):
    """``[d...] = W_up tanh(W_dn x + b) + b'`` per token, ``s d`` added to the queries, keys or values of ``mode``."""

    def __init__(self, dim: int, hidden: int, scale: float, mode: str, init: str) -> None:
        super().__init__()
        self.scale, self.mode, self.init = scale, mode, init
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, len(mode) * dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """torch's own start; with ``identity`` the second linear is zero."""
        self.down.reset_parameters()
        self.up.reset_parameters()
        if self.init == "identity":
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, qkv: QKV, flow: Flow) -> QKV:
        heads = qkv.k.shape[1]
        changes = (self.scale * self.up(torch.tanh(self.down(qkv.x)))).chunk(len(self.mode), dim=-1)
        new: dict[str, Tensor] = {}
        for name, change in zip(self.mode, changes, strict=True):
            new[name] = getattr(qkv, name) + change.unflatten(-1, (heads, -1)).transpose(1, 2)
        return qkv._replace(**new)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class PATT(Method):
    """``[dk, dv] = W_up tanh(W_dn x + b) + b'``, ``k <- k + s dk``, ``v <- v + s dv``, x the attention's input.

    Args:
        hidden: Inner width m. 128 on Video Swin-B; 32 on ViT-B is what fits the survey's count, and unverified.
        scale: s. The authors' README sets 0.8; their code's own default is 0.2.
        mode: Which of queries, keys and values are changed: ``kv | qv | qk | qkv``.
        init: ``official`` is torch's own start, so keys and values change from the first step; ``identity`` starts as
            the frozen host.
    """

    hidden: int = 32
    scale: float = 0.8
    mode: str = "kv"
    init: str = "official"

    category = "prefix"
    paper = "Towards a Unified View on Visual Parameter-Efficient Transfer Learning (V-PETL), 2210.00788"
    space = {"hidden": [8, 16, 32], "scale": [0.1, 0.4, 0.8, 1.5]}
    identity_at_start = False
    unverified = "The authors' ViT variant is not released: its inner width is fitted to the published count."

    def check(self, host: Host) -> None:
        self.need_square(host)
        self.need_full_keys(host)
        self.need_choice("mode", MODES)
        self.need_choice("init", STARTS)

    def build(self, host: Host) -> None:
        for block in host.blocks:
            module = ParallelAttention(block.dim, self.hidden, self.scale, self.mode, self.init)
            block.place("core", "before", module, "patt")

    def count(self, host: Host) -> int:
        m, outputs = self.hidden, len(self.mode)
        return sum(b.dim * m + m + outputs * (m * b.dim + b.dim) for b in host.blocks)
