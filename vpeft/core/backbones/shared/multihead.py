"""Attention by torch's ``nn.MultiheadAttention``, which uses its weights itself: several libraries do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.sites.stated_linear import StatedLinear

_SITES = ("qkv", "core", "proj")


class InProjection(StatedLinear):
    """Projection of queries, keys and values whose weights lie in one tensor, as three linears.

    Args:
        attn: The attention.
    """

    def __init__(self, attn: nn.MultiheadAttention) -> None:
        super().__init__((attn, "in_proj_weight"), *_bias(attn, "in_proj_bias"))

    @property
    def rows(self) -> list[int]:
        """Rows of queries, keys and values."""
        return [self.out_features // 3] * 3

    @property
    def linears(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The three, as functions of their input."""
        biases = [None] * 3 if self.bias is None else self.bias.chunk(3)
        return [_tokens_first(*part) for part in zip(self.weight.chunk(3), biases, strict=True)]


class MultiheadBlock(SiteBlock):
    """A block whose attention is torch's; a kind calls :meth:`site_torch` in its ``site_attention``.

    Where nothing is placed inside the attention, torch's own forward runs, with whichever of its kernels it takes.

    Attributes:
        site_multihead: Name of the ``nn.MultiheadAttention`` in the block.
        site_weighs: The backbone asks torch for the weights too, which are then computed apart.
        site_packs: Queries, keys and values of one tensor are one product in torch, as they are not where the backbone
            has turned that tensor for each.
    """

    site_multihead: ClassVar[str] = "attn"
    site_weighs: ClassVar[bool] = False
    site_packs: ClassVar[bool] = True

    @classmethod
    def site_refuses(cls, block: nn.Module) -> str | None:
        attn = block.get_submodule(cls.site_multihead)
        if not attn._qkv_same_embed_dim or attn.bias_k is not None or attn.add_zero_attn:
            return "an nn.MultiheadAttention with kdim, vdim, add_bias_kv or add_zero_attn is not re-stated."
        return None

    @classmethod
    def site_heads(cls, block: nn.Module) -> int:
        return block.get_submodule(cls.site_multihead).num_heads

    @classmethod
    def site_projections(cls, block: nn.Module) -> dict[str, StatedLinear]:
        """The sites ``qkv`` and ``proj``."""
        attn = block.get_submodule(cls.site_multihead)
        return {"qkv": InProjection(attn), "proj": StatedLinear((attn.out_proj, "weight"), *_bias(attn.out_proj))}

    @property
    def site_msa(self) -> nn.MultiheadAttention:
        """Torch's attention."""
        return self.get_submodule(self.site_multihead)

    def site_call(self, x: Tensor, kv: Tensor) -> Tensor:
        """Torch's attention as the backbone calls it, on tokens ``(B, N, C)``; keys and values are of ``kv``."""
        if self.site_msa.batch_first:
            return self.site_msa(x, kv, kv, need_weights=self.site_weighs)[0]
        own = x.transpose(0, 1)
        kv = own if kv is x else kv.transpose(0, 1)
        return self.site_msa(own, kv, kv, need_weights=self.site_weighs)[0].transpose(0, 1)

    def site_torch(self, x: Tensor, kv: Tensor | None = None) -> Tensor:
        """Attention with its projections, sites included: ``(B, N, C)`` to the same.

        Args:
            x: The attention's input.
            kv: What keys and values are made of; ``x`` by default.
        """
        kv, attn, sites = x if kv is None else kv, self.site_msa, self.peft_sites
        placed = any(sites[name].placed(*sites[name].allowed) for name in _SITES)
        if not placed and self.peft_passes.recorder is None:
            return self.site_call(x, kv)
        q, k, v = (self.site_split(t) for t in self.site_qkv(x, kv))
        q, k, v, _ = self.site_core(q, k, v, x)
        if self.site_weighs:
            y = F.dropout(self.site_scores(q, k).softmax(dim=-1), attn.dropout, attn.training) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=attn.dropout if attn.training else 0.0)
        return sites["proj"].run(self.site_proj, y.transpose(1, 2).flatten(2))

    def site_qkv(self, x: Tensor, kv: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values ``(B, N, C)`` each, in as many products as torch takes."""
        if kv is not x or not self.site_packs:
            return self.site_linears("qkv", x, kv, kv)
        attn = self.site_msa
        packed = _tokens_first(attn.in_proj_weight, attn.in_proj_bias)
        return self.peft_sites["qkv"].run(packed, x).chunk(3, dim=-1)

    def site_proj(self, y: Tensor) -> Tensor:
        """The projection behind the attention, ``(B, N, C)`` to the same, as torch has it."""
        out = self.site_msa.out_proj
        rows = F.linear(y.transpose(0, 1).flatten(0, 1), out.weight, out.bias)
        return rows.unflatten(0, (-1, len(y))).transpose(0, 1)

    def site_split(self, t: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, heads, N, head width)``, in memory as torch has it."""
        heads = self.site_msa.num_heads
        return t.transpose(0, 1).reshape(t.shape[1], t.shape[0] * heads, -1).transpose(0, 1).unflatten(0, (-1, heads))

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q * math.sqrt(1.0 / q.shape[-1]) @ k.transpose(-2, -1)


def _bias(module: nn.Module, name: str = "bias") -> tuple[tuple[nn.Module, str], ...]:
    return () if getattr(module, name) is None else ((module, name),)


def _tokens_first(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """A linear of tokens ``(B, N, C)`` that has them before the batch in memory, as torch's attention: to the bit."""
    return lambda x: F.linear(x.transpose(0, 1), weight, bias).transpose(0, 1)
