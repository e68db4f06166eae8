"""NOAH: prompts, LoRA and adapters of searched sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.adapter.convolution.convpass import quick_gelu
from vpeft.algorithms.modules.stateless import Stateless
from vpeft.algorithms.prompt.vpt import insert
from vpeft.algorithms.unified.noah_space import KINDS, Space
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

#: Prompts of the authors' supernet.
SUPER = 100


class Elastic(nn.Module):
    """A module of ``size`` of which the first ``active`` rows, ranks or units are used: all, but in a supernet."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = self.active = size

    def selected(self) -> dict[str, Tensor]:
        """Which of its rows, ranks or units are used, ``(size,)``."""
        return {"units": torch.arange(self.size) < self.active}


class ElasticPrompts(Elastic):
    """Fresh prompts for one block, behind the prefix; where none is active, those that left the block before it.

    Args:
        key: Where prompts are kept from block to block.
        size: p.
        dim: C.
        drop: Dropout on the prompts.
        official: The start.
    """

    weight_decay = False

    def __init__(self, key: str, size: int, dim: int, drop: float, official: bool) -> None:
        super().__init__(size)
        self.key, self.official = key, official
        self.weight = nn.Parameter(torch.empty(size, dim))
        self.drop = nn.Dropout(drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform; ``official`` as a tensor ``(1, 100, C)``, what the authors cut every size from."""
        rows, dim = self.weight.shape
        bound = math.sqrt(6 / ((SUPER + 1) * dim if self.official else rows + dim))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        tokens = self.drop(self.weight[: self.active].expand(x.shape[0], -1, -1)) if self.active else None
        return put_in(self.key, x, tokens, flow)


class CarryPrompts(Stateless):
    """Puts the prompts that left the block before into the stream."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return put_in(self.key, x, None, flow)


def put_in(key: str, x: Tensor, tokens: Tensor | None, flow: Flow) -> Tensor:
    """The stream with prompts, or with those that left the block before, if any did."""
    tokens = flow.state.get(key, {}).get(flow.index - 1) if tokens is None else tokens
    flow.state.setdefault(f"{key}.count", {})[flow.index] = 0 if tokens is None else tokens.shape[1]
    return x if tokens is None else insert(x, tokens.to(x.dtype), flow)


class TakePrompts(Stateless):
    """Takes the prompts out of the stream behind their block; with ``keep`` for the next."""

    def __init__(self, key: str, keep: bool) -> None:
        super().__init__()
        self.key, self.keep = key, keep

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        count = flow.state[f"{self.key}.count"][flow.index]
        if not count:
            return x
        last = flow.prefix
        flow.prefix = first = last - count
        if self.keep:
            flow.state.setdefault(self.key, {})[flow.index] = x[:, first:last]
        return torch.cat((x[:, :first], x[:, last:]), dim=1)


class ElasticLoRA(Elastic):
    """``B A Drop(x)`` on q, k and v jointly: A (r, C), B (3 C, r)."""

    def __init__(self, size: int, dim: int, drop: float, official: bool) -> None:
        super().__init__(size)
        self.official = official
        self.drop = nn.Dropout(drop)
        self.down = nn.Parameter(torch.empty(size, dim))
        self.up = nn.Parameter(torch.empty(3 * dim, size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Both truncated normal of std 0.02 where ``official``; else A Kaiming-uniform with a = sqrt 5, B zero."""
        if self.official:
            nn.init.trunc_normal_(self.down, std=0.02)
            nn.init.trunc_normal_(self.up, std=0.02)
        else:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
            nn.init.zeros_(self.up)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return F.linear(F.linear(self.drop(x), self.down[: self.active]), self.up[:, : self.active])

    def affine(self) -> tuple[Tensor, None]:
        """The dense update, no shift."""
        return self.up[:, : self.active].double() @ self.down[: self.active].double(), None


class ElasticAdapter(Elastic):
    """``y + W_up Drop(q(W_dn y + b_dn)) + b_up``; the identity where no unit is active."""

    def __init__(self, size: int, dim: int, drop: float, official: bool) -> None:
        super().__init__(size)
        self.official = official
        self.down = nn.Linear(dim, size)
        self.drop = nn.Dropout(drop)
        self.up = nn.Linear(size, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal of std 0.02, no bias, where ``official``; else Xavier-uniform, biases normal of std 1e-6."""
        for linear in (self.down, self.up):
            if self.official:
                nn.init.trunc_normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
            else:
                nn.init.xavier_uniform_(linear.weight)
                nn.init.normal_(linear.bias, std=1e-6)

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        if not self.active:
            return y
        hidden = F.linear(y, self.down.weight[: self.active], self.down.bias[: self.active])
        return y + F.linear(self.drop(quick_gelu(hidden)), self.up.weight[:, : self.active], self.up.bias)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class NOAH(Method):
    """A subnet: in block i, ``p_i`` fresh prompts in the stream, joint LoRA of rank ``r_i`` on q, k, v, and behind
    DropPath an adapter of width ``a_i`` on the MLP's output. A size of 0 leaves the module out. The sizes are found by
    :mod:`vpeft.apis.tune.noah` (supernet, evolutionary search); the authors' subnets for VTAB-1k are in
    ``configs/_base_/authors_values/noah.py``. Where a block has no prompts those of the block before go on through it.

    The authors append prompts at the end of the sequence; attention does not see the order. Their prompts and position
    table before the first block, thrown away before they are used, are left out; their count of 0.64 M holds both.

    Args:
        prompts: p of every block, or one number for all.
        ranks: r.
        widths: a.
        drop: Dropout on the prompts, on LoRA's input and on the adapter's code.
        init: ``official`` as the released code starts in effect, where the model's own start runs over that of the
            modules: LoRA and adapters truncated normal of std 0.02, prompts Xavier-uniform as ``(1, 100, C)``;
            ``paper`` has LoRA's B at zero, its A Kaiming-uniform, adapters and prompts Xavier-uniform.
    """

    prompts: int | tuple[int, ...] = 5
    ranks: int | tuple[int, ...] = 5
    widths: int | tuple[int, ...] = 5
    drop: float = 0.1
    init: str = "official"

    category = "unified"
    paper = "Neural Prompt Search, 2206.04673"
    space = {"prompts": [2, 5, 10], "ranks": [2, 5, 10], "widths": [2, 5, 10]}
    limits = dict.fromkeys(KINDS.values(), (0, 2**16))
    partly_mergeable = True
    identity_at_start = False
    in_a_row = True

    def sizes(self, kind: str, host: Host) -> tuple[int, ...]:
        """Sizes of one kind of module, block by block."""
        value = getattr(self, KINDS[kind])
        return (value,) * len(host.blocks) if isinstance(value, int) else tuple(value)

    def check(self, host: Host) -> None:
        for kind, field in KINDS.items():
            if len(self.sizes(kind, host)) != len(host.blocks):
                raise UserError(
                    f"NOAH: {field}={getattr(self, field)!r} must be a whole number of at least 0, or one for each of "
                    f"the {len(host.blocks)} blocks of {host.registered_name()}."
                )
        self.need_choice("init", ("official", "paper"))
        self.need_tokens(host)
        self.need_square(host)
        if not any(any(self.sizes(kind, host)) for kind in KINDS):
            raise UserError("NOAH: every size is 0, so nothing would be trained.")

    def build(self, host: Host) -> None:
        key, how, there = host.method_key, (self.drop, self.init == "official"), False
        for i, block in enumerate(host.blocks):
            prompts, rank, width = (self.sizes(kind, host)[i] for kind in KINDS)
            if prompts or there:
                module = ElasticPrompts(key, prompts, block.dim, *how) if prompts else CarryPrompts(key)
                block.place("block", "before", module, "prompt")
                # Where the width changes they end.
                there = i + 1 < len(host.blocks) and host.blocks[i + 1].stage == block.stage
                block.place("block", "after", TakePrompts(key, there), "take_prompts")
            if rank:
                block.place("qkv", "parallel", ElasticLoRA(rank, block.dim, *how), "lora")
            if width:
                block.place("mlp_branch", "late", ElasticAdapter(width, block.dim, *how), "adapter")

    def subnet_space(self, host: Host, key: str, settings: Mapping[str, Any]) -> Space:
        return Space(host, key, self, settings)

    def count(self, host: Host) -> int:
        total = 0
        for block, p, r, a in zip(host.blocks, *(self.sizes(kind, host) for kind in KINDS), strict=True):
            total += p * block.dim + 4 * block.dim * r + (2 * a * block.dim + a + block.dim if a else 0)
        return total
