"""U-Tuning: a tuner beside an operation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

#: Operations and their sites; the last four are linears.
OPS = {
    "attn": "attn_branch",
    "ffn": "mlp_branch",
    "block": "block",
    "qkv": "qkv",
    "proj": "proj",
    "fc1": "fc1",
    "fc2": "fc2",
}
LINEARS = ("qkv", "proj", "fc1", "fc2")
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "none": lambda x: x}


class AdapterTuner(nn.Module):
    """``s W_up act(W_dn X)``, W_dn (l, in), W_up (out, l)."""

    def __init__(self, inputs: int, outputs: int, length: int, gate: float, act: str) -> None:
        super().__init__()
        self.gate, self.act = gate, act
        self.down = nn.Linear(inputs, length, bias=False)
        self.up = nn.Linear(length, outputs, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W_dn Xavier-uniform, W_up zero."""
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return self.gate * self.up(ACTIVATIONS[self.act](self.down(x)))


class LinearTuner(AdapterTuner):
    """The same without an activation, beside a linear."""

    def affine(self) -> tuple[Tensor, None]:
        """What it adds to the linear's weight, no shift."""
        return self.gate * (self.up.weight.double() @ self.down.weight.double()), None


class PrefixTuner(nn.Module):
    """``s softmax((X W_q) P_k^T / sqrt(d)) P_v`` per head, with the block's frozen W_q; P_k, P_v (l, C)."""

    weight_decay = False

    def __init__(self, block: Block, length: int, gate: float) -> None:
        super().__init__()
        self.block, self.gate = block, gate
        self.key = nn.Parameter(torch.empty(length, block.dim))
        self.value = nn.Parameter(torch.empty(length, block.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform as for a tensor ``(1, l, C)``: bound ``sqrt(6 / (l C + C))``."""
        nn.init.xavier_uniform_(self.key.data[None])
        nn.init.xavier_uniform_(self.value.data[None])

    def project(self, x: Tensor, third: int) -> Tensor:
        """``x`` through the block's projection of q (0), k (1) or v (2), in the precision of ``x``."""
        qkv, c = self.block.sites["qkv"].module, self.block.dim
        rows = slice(third * c, (third + 1) * c)
        return F.linear(x, qkv.weight[rows].to(x.dtype), None if qkv.bias is None else qkv.bias[rows].to(x.dtype))

    def rows(self) -> tuple[Tensor, Tensor]:
        """P_k and P_v."""
        return self.key, self.value

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        q, (k, v) = self.project(x, 0), self.rows()
        q, k, v = (t.unflatten(-1, (self.block.heads, -1)).transpose(-3, -2) for t in (q, k, v))
        k, v = (t.to(q.dtype).expand(q.shape[0], -1, -1, -1) for t in (k, v))
        return self.gate * F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class PromptTuner(PrefixTuner):
    """The same with ``P_k = P W_k``, ``P_v = P W_v`` of one prompt P (l, C) and the frozen projections."""

    def __init__(self, block: Block, length: int, gate: float) -> None:
        nn.Module.__init__(self)
        self.block, self.gate = block, gate
        self.prompt = nn.Parameter(torch.empty(length, block.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform as for a tensor ``(1, l, C)``."""
        nn.init.xavier_uniform_(self.prompt.data[None])

    def rows(self) -> tuple[Tensor, Tensor]:
        return self.project(self.prompt, 1), self.project(self.prompt, 2)


KINDS = ("adapter", "prefix", "prompt")


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class UTuning(Method):
    """``OP(X) + tuner(X)``: beside attention, MLP, a block or a linear, a tuner on the operation's own input, added
    before the residual. Tuners: an adapter ``s W_up act(W_dn X)``; a prefix ``s softmax((X W_q) P_k^T / sqrt(d))
    P_v``; a prompt, whose P_k and P_v are the frozen projections of one P.

    Args:
        op: ``attn | ffn | block | qkv | proj | fc1 | fc2``. Attention and MLP are fed by their norm.
        kind: ``adapter | prefix | prompt``; the last two at ``attn``, ``ffn`` and ``block``.
        length: l, the width of the adapter or the number of rows of P.
        gate: s.
        act: Of the adapter, ``gelu | relu | none``. With ``none`` beside a linear it merges.
    """

    op: str = "attn"
    kind: str = "prefix"
    length: int = 10
    gate: float = 1.0
    act: str = "gelu"

    category = "unified"
    paper = "Rethinking Efficient Tuning Methods from a Unified Perspective (U-Tuning), 2303.00690"
    space = {"op": ["attn", "ffn"], "kind": ["adapter", "prefix"], "length": [5, 10, 20]}
    merges_with = "linear adapter beside a linear"
    identity_at_start = False
    unverified = (
        "The authors' U-Tuner class is not public: the equations are the paper's as summarised, and which combination "
        "the published row used is unknown. The default is the one that fits its count."
    )

    def __post_init__(self) -> None:
        self.mergeable = self.kind == "adapter" and self.act == "none" and self.op in LINEARS

    def check(self, host: Host) -> None:
        self.need_choice("op", OPS)
        self.need_choice("kind", KINDS)
        self.need_choice("act", ACTIVATIONS)
        if self.op in ("attn", "qkv", "proj"):
            self.need_attention(host)
        if self.kind != "adapter":
            self.need_square(host)
        if self.kind != "adapter" and self.op in LINEARS:
            raise UserError(
                f"UTuning: kind={self.kind!r} attends over a block's tokens; beside the linear {self.op!r} of "
                f"{host.registered_name()} only kind='adapter' is defined."
            )

    def ends(self, block: Block) -> tuple[int, int]:
        """Widths of the operation's input and output."""
        if self.op not in LINEARS:
            return block.dim, block.dim
        return block.size(self.op)

    def build(self, host: Host) -> None:
        for block in host.blocks:
            if self.kind == "adapter":
                tuner = LinearTuner if self.mergeable else AdapterTuner
                module = tuner(*self.ends(block), self.length, self.gate, self.act)
            else:
                module = (PrefixTuner if self.kind == "prefix" else PromptTuner)(block, self.length, self.gate)
            block.place(OPS[self.op], "parallel", module, "tuner")

    def count(self, host: Host) -> int:
        if self.kind == "adapter":
            return self.length * sum(sum(self.ends(b)) for b in host.blocks)
        return self.length * sum((2 if self.kind == "prefix" else 1) * b.dim for b in host.blocks)
