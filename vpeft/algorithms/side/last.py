"""LAST: low-rank attention side tuning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.algorithms.modules.stateless import Stateless
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS


class LowRankAttention(nn.Module):
    """``W_o softmax(q k^T / sqrt(r)) v`` with q, k, v = ``W LN(x) + b``, one head of width r."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * rank)
        self.out = nn.Linear(rank, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The output linear zero, all else torch's own start."""
        self.norm.reset_parameters()
        self.qkv.reset_parameters()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v))


class SideAttention(nn.Module):
    """``T`` residual low-rank attentions on ``u_{i-1} + z_i``.

    Kept are ``sum z`` and ``sum of the attentions' outputs`` apart: u is their sum, and the read-out needs the second.
    """

    def __init__(self, key: str, dim: int, rank: int, depth: int, before: int) -> None:
        super().__init__()
        self.key, self.before = key, before
        self.layers = nn.ModuleList(LowRankAttention(dim, rank) for _ in range(depth))

    def reset_parameters(self) -> None:
        """That of every attention."""
        for layer in self.layers:
            layer.reset_parameters()

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.need_unmasked()
        state = flow.state[self.key]
        total, learned = state[self.before]
        total = total + x
        u = total if learned is None else total + learned
        for layer in self.layers:
            change = layer(u)
            u = u + change
            learned = change if learned is None else learned + change
        state[flow.index] = (total, learned)
        return x


class Start(Stateless):
    """Keeps ``z_0``, the embedded tokens."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.state.setdefault(self.key, {})[-1] = (x, None)
        return x


class End(Start):
    """``u_m - sum_{i<m} z_i = z_m + the sum of the attentions' outputs``."""

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        state = flow.state[self.key]
        return x + state[max(state)][1]


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class LAST(Method):
    """``u_0 = z_0``, ``u_i = F_i(u_{i-1} + z_i)`` beside the frozen backbone, whose final tokens become
    ``u_m - sum_{i<m} z_i``; z_i is the output of the i-th group of blocks, z_0 the embedded tokens, and F_i are T
    modules ``x + W_o softmax(q k^T / sqrt(r)) v``, q, k, v = ``W LN(x)`` of width r. Frozen final norm and head follow.

    Args:
        rank: r.
        group: Blocks of the backbone to one side block.
        depth: T.
    """

    rank: int = 16
    group: int = 1
    depth: int = 1

    category = "side"
    paper = "Low-rank Attention Side-Tuning for Parameter-Efficient Fine-Tuning, 2402.04009"
    space = {"rank": [4, 8, 16], "depth": [1, 2]}
    memory = "M0"
    needs_all_blocks = "its side attention reads every group of blocks, and its read-out is the sum over them"
    base_eval = True
    unverified = (
        "A reconstruction: no code is public. Groups, sequence of attentions and the correction are the abstract's and "
        "summaries'; that F is residual, the norm, one head, and g = T = 1 rest on a fit of the parameter count."
    )

    def check(self, host: Host) -> None:
        self.need_width("rank", host)
        self.need_one_width(host)
        if len(host.blocks) % self.group:
            raise UserError(
                f"LAST: group={self.group} does not divide the {len(host.blocks)} blocks of {host.registered_name()}."
            )

    def build(self, host: Host) -> None:
        key, before = host.method_key, -1
        host.blocks[0].place("block", "before", Start(key), "start")
        for block in host.blocks[self.group - 1 :: self.group]:
            block.place("block", "after", SideAttention(key, block.dim, self.rank, self.depth, before), "side")
            before = block.index
        host.place("norm.0", "before", End(key), "end")

    def count(self, host: Host) -> int:
        c, r = host.blocks[0].dim, self.rank
        return len(host.blocks) // self.group * self.depth * (4 * c * r + 3 * r + c + 2 * c)
