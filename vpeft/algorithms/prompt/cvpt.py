"""CVPT: prompts that the stream looks at by cross-attention."""

from __future__ import annotations

import math
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

#: Place in a block, and the site and placement of it.
PLACES = {"before": ("block", "before"), "middle": ("attn_residual", "after"), "after": ("block", "after")}


class CrossAttention(nn.Module):
    """``x + W_o softmax(W_q x (W_k P)^T / sqrt(d)) W_v P``, with the block's own frozen weights and biases."""

    def __init__(self, block: Block, length: int, bound: float, drop: float) -> None:
        super().__init__()
        self.block, self.bound = block, bound
        self.weight = nn.Parameter(torch.empty(length, block.dim))
        self.drop = nn.Dropout(drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in (-bound, bound)."""
        nn.init.uniform_(self.weight, -self.bound, self.bound)

    def project(self, site: str, x: Tensor, third: int = 0) -> Tensor:
        """``x`` (..., C) through one third of ``qkv``, or ``proj``, in the precision of ``x``, by heads where asked."""
        module, c = self.block.sites[site].module, self.block.dim
        rows = slice(third * c, (third + 1) * c)
        return F.linear(x, module.weight[rows].to(x.dtype), None if module.bias is None else module.bias[rows].to(x))

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        prompts = self.drop(self.weight.expand(x.shape[0], -1, -1)).to(x.dtype)
        inputs = (x, prompts, prompts)
        q, k, v = (self.project("qkv", one, third) for third, one in enumerate(inputs))
        q, k, v = (t.unflatten(-1, (self.block.heads, -1)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.project("proj", y)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class CVPT(Method):
    """``x <- x + CA_i(x, P_i)``: in every block the stream, not normed, looks at p prompts of the block by
    cross-attention with the block's own frozen projections of queries, keys, values and output. The stream grows no
    longer, so the cost is linear in p. The authors' code starts the cross-attention from the block's attention; that
    it stays frozen is what the published count needs. Of their five places the two inside a branch are not offered.

    Args:
        prompt_length: Prompts p.
        place: ``before`` the block's attention (the default of the authors' file), in the ``middle`` between attention
            and MLP, or ``after`` the block.
        drop: Dropout on the prompts.
    """

    prompt_length: int = 10
    place: str = "before"
    drop: float = 0.0

    category = "prompt"
    paper = "CVPT: Cross Visual Prompt Tuning, 2408.14961, section unverified"
    space = {"prompt_length": [1, 5, 10, 20], "place": list(PLACES)}
    identity_at_start = False
    unverified = (
        "The authors release evaluation only: that the copies of the attention are frozen is read off the count."
    )

    def check(self, host: Host) -> None:
        self.need_choice("place", PLACES)
        self.need_attention(host)
        self.need_square(host)
        for block in host.blocks:
            if block.size("proj") != (block.dim, block.dim) or block.sites["proj"].module.weight.dim() != 2:
                raise UserError(
                    f"CVPT takes the output projection of a block to its prompts; that of block {block.index} of "
                    f"{host.registered_name()} is no square linear. VPTDeep attaches there."
                )

    def build(self, host: Host) -> None:
        site, placement = PLACES[self.place]
        for block in host.blocks:
            # Xavier's of the authors' one tensor (blocks, p, D)
            bound = math.sqrt(6 / (block.dim * (self.prompt_length + len(host.blocks))))
            block.place(site, placement, CrossAttention(block, self.prompt_length, bound, self.drop), "prompts")

    def count(self, host: Host) -> int:
        return self.prompt_length * sum(block.dim for block in host.blocks)
