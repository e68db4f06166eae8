"""Attention of timm's blocks: queries, keys and values in one linear or three, fused or plain products, masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.sites.stated_linear import StackedLinear, StatedLinear
from vpeft.core.backbones.windows.shifted import pad_bias


def qkv_module(attn: nn.Module) -> nn.Module | StatedLinear:
    """The module behind ``qkv``: a linear, one without a call whose keys have no bias, or three linears."""
    if attn.qkv is None:
        return StackedLinear(attn.q_proj, attn.k_proj, attn.v_proj)
    if getattr(attn, "q_bias", None) is None:
        return attn.qkv
    return StatedLinear((attn.qkv, "weight"), (attn, "q_bias"), None, (attn, "v_bias"))


def run_qkv(block: SiteBlock, attn: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values ``(B, heads, tokens, head width)``; keys and values may have fewer heads."""
    batch, tokens, _ = x.shape
    if attn.qkv is None:
        heads = attn.num_heads, *[getattr(attn, "num_kv_heads", attn.num_heads)] * 2
        parts = zip(block.site_linears("qkv", x), heads, strict=True)
        return tuple(part.reshape(batch, tokens, count, -1).transpose(1, 2) for part, count in parts)
    if getattr(attn, "q_bias", None) is None:
        qkv = attn.qkv(x)
    else:
        qkv = block.peft_sites["qkv"].run(lambda x: F.linear(x, weight=attn.qkv.weight, bias=_bias(attn)), x)
    return qkv.reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _bias(attn: nn.Module) -> Tensor:
    return torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))


def attend(
    attn: nn.Module, q: Tensor, k: Tensor, v: Tensor, scores: Callable[[Tensor, Tensor], Tensor], bias: Tensor | None
) -> Tensor:
    """What attention gives, heads side by side ``(B, tokens, heads * head width)``.

    Args:
        attn: The attention: its dropout, and whether torch's fused products are used.
        q: Queries; likewise ``k`` and ``v``.
        k: Keys.
        v: Values.
        scores: What the softmax takes, of queries and keys.
        bias: What ``scores`` adds, for the fused products.
    """
    if attn.fused_attn:
        drop = attn.attn_drop.p if attn.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop)
    else:
        y = attn.attn_drop(scores(q, k).softmax(dim=-1)) @ v
    batch, _, tokens, _ = y.shape
    return y.transpose(1, 2).reshape(batch, tokens, -1)


def plain_scores(attn: nn.Module, q: Tensor, k: Tensor, biases: Sequence[Tensor] = (), own: int = 0) -> Tensor:
    """Scaled products of queries and keys, and biases ``(1, heads, N, N)`` of ``own`` tokens and the map."""
    scores = q * attn.scale @ k.transpose(-2, -1)
    for bias in biases:
        scores = scores + pad_bias(bias, *scores.shape[-2:], own)
    return scores


def fused_bias(biases: Sequence[Tensor], q: Tensor, k: Tensor, own: int) -> Tensor | None:
    """The biases as one, for the fused products; None without any."""
    if not biases:
        return None
    bias = biases[0] if len(biases) == 1 else biases[0] + biases[1]
    return pad_bias(bias, q.shape[-2], k.shape[-2], own)


def mask_for(mask: Tensor | None, queries: int, keys: int, own: int) -> Tensor | None:
    """A mask ``(..., N, N)`` or ``(..., 1, N)`` for more queries and keys.

    Prompts stand behind the ``own`` tokens before the map, and see what any token sees; prefixes stand before all
    keys. Both are seen by all.

    Args:
        mask: Added to the scores, or True where a key is seen; None where all is.
        queries: Tokens of the stream.
        keys: Tokens that they look at.
        own: Tokens of the host before the map.
    """
    if mask is None or mask.shape[-1] == keys:
        return mask
    prompts, prefixes = queries - mask.shape[-1], keys - queries
    seen = torch.zeros((), dtype=mask.dtype, device=mask.device) if mask.is_floating_point() else mask.new_ones(())
    added = [seen.expand(*mask.shape[:-1], count) for count in (prefixes, prompts)]
    mask = torch.cat((added[0], mask[..., :own], added[1], mask[..., own:]), dim=-1)
    if prompts and mask.shape[-2] > 1:
        rows = mask.amax(-2, keepdim=True).expand(*mask.shape[:-2], prompts, -1)
        mask = torch.cat((mask[..., :own, :], rows, mask[..., own:, :]), dim=-2)
    return mask


def masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores with a mask that is added, or is True where a key is seen."""
    if mask is None or mask.dtype != torch.bool:
        return scores if mask is None else scores + mask
    return scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, float("-inf"))


def attended_difference(
    attn: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scores: Callable[[Tensor, Tensor], Tensor],
    mask: Tensor | None,
    own: int,
) -> Tensor:
    """What heads that are the difference of two attentions give, normed, ``(B, heads, N, width)``.

    Args:
        attn: What holds timm's settings and weights of it (``lambda_init``, ``sub_norm``, ...).
        q: Queries ``(B, heads, N, width)``, both halves of a head side by side; likewise the keys ``k``.
        k: Keys.
        v: Values.
        scores: Scores of both halves, ``(B, 2 heads, queries, keys)``.
        mask: As of :func:`mask_for`, and ``own`` too.
        own: Tokens of the host before the map.
    """
    share, drop = attn._compute_lambda().type_as(q), attn.attn_drop_p if attn.training else 0.0
    if attn.fused_attn:
        seen = mask_for(mask, q.shape[2], k.shape[2], own)
        halves = zip(q.chunk(2, dim=-1), k.chunk(2, dim=-1), strict=True)
        first, second = (F.scaled_dot_product_attention(*half, v, attn_mask=seen, dropout_p=drop) for half in halves)
        y = first - share * second
    else:
        first, second = attn.attn_drop(scores(q, k).softmax(dim=-1)).unflatten(1, (-1, 2)).unbind(2)
        y = (first - share * second) @ v
    return attn.sub_norm(y) * (1 - attn.lambda_init)
