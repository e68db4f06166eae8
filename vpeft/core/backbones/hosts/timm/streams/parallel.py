"""The blocks of timm's ViT in which attention and MLP stand side by side, as in ViT-22B."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import Operation, SiteBlock
from vpeft.core.backbones.hosts.timm.attention import mask_for, masked
from vpeft.core.backbones.hosts.timm.vit import joined, refuse_causal
from vpeft.core.backbones.sites.stated_linear import SlicedLinear, StatedLinear
from vpeft.registry import BLOCKS

_MODULE = "timm.models.vision_transformer"
_UNITS = ("attn_branch", "mlp_branch", "attn_residual", "mlp_residual")
#: Where anything is placed at one of these, every branch runs by itself.
_APART = ("norm1", "norm2", "qkv", "core", "proj", "fc1", "fc2", *_UNITS)


@BLOCKS.register_module(name="timm.ParallelScalingBlock")
class TimmParallelScalingBlock(SiteBlock):
    """``ParallelScalingBlock``: ``x + DP(ls(attention(n) + mlp(n)))``, ``n = in_norm(x)``.

    One linear gives the MLP's hidden layer, queries, keys and values, of which ``fc1`` and ``qkv`` are the rows. Both
    units read the block's stream: ``s2(s1(x) + DP(ls(attention(n)))) + DP(ls(mlp(n)))``, with one draw of DropPath. The
    norm before both is no module of a site: what is placed at ``norm1`` acts before the attention alone, what is
    placed at ``norm2`` before the MLP.
    """

    site_targets = (f"{_MODULE}.ParallelScalingBlock",)

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.num_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear | None]:
        hidden, dim = block.in_split[:2]
        into, bias = (block.in_proj, "weight"), None if block.in_proj.bias is None else (block.in_proj, "bias")
        if block.out_proj is None:
            proj, fc2 = block.attn_out_proj, block.mlp_out_proj
        else:
            out, last = (block.out_proj, "weight"), None if block.out_proj.bias is None else (block.out_proj, "bias")
            proj = SlicedLinear(out, None, columns=(0, dim))
            fc2 = SlicedLinear(out, last, columns=(dim, dim + hidden))
        return {
            "norm1": None,
            "qkv": SlicedLinear(into, bias, rows=(hidden, hidden + 3 * dim)),
            "proj": proj,
            "norm2": None,
            "fc1": SlicedLinear(into, bias if block.mlp_bias is None else (block, "mlp_bias"), rows=(0, hidden)),
            "act": block.mlp_act,
            "fc2": fc2,
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
        return (None if isinstance(block.ls, nn.Identity) else block.ls,) * 2

    def site_units(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        sites = self.peft_sites
        if not any(sites[name].placed(*sites[name].allowed) for name in _APART):
            return x + self.drop_path(self.ls(self.site_whole(self.in_norm(x), mask)))
        seen, read = (sites[name].run(self.in_norm, x) for name in ("norm1", "norm2"))
        y = sites["attn_branch"].run(functools.partial(self.site_attention, mask=mask), seen)
        z = sites["mlp_branch"].run(self.site_mlp, read)
        drop1, drop2 = self.site_drops(y)
        first, second = sites["attn_residual"], sites["mlp_residual"]
        between = first.after(x, first.shortcut(x) + sites["attn_branch"].dropped(seen, y, drop1))
        return second.after(x, second.shortcut(between) + sites["mlp_branch"].dropped(read, z, drop2))

    def site_drops(self, y: Tensor) -> tuple[Operation, Operation]:
        """DropPath of either branch, of one draw."""
        if not self.training or isinstance(self.drop_path, nn.Identity):
            return self.drop_path, self.drop_path
        draw = self.drop_path(y.new_ones(len(y), 1, 1))
        return _drawn(draw, self.drop_path), _drawn(draw, self.drop_path)

    def site_whole(self, n: Tensor, mask: Tensor | None) -> Tensor:
        """Both branches of the normed stream at once, without LayerScale."""
        hidden, *qkv = self.in_proj(n).split(self.in_split, dim=-1)
        if self.mlp_bias is not None:
            hidden = hidden + self.mlp_bias
        y = self.site_attend(qkv, n, mask)
        hidden = self.mlp_drop(self.mlp_act(hidden))
        if self.out_proj is not None:
            return self.out_proj(torch.cat((y, hidden), dim=-1))
        return self.attn_out_proj(y) + self.mlp_out_proj(hidden)

    def site_attention(self, n: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.ls(self.site_linear("proj", self.site_attend(self.site_linear("qkv", n).chunk(3, -1), n, mask)))

    def site_mlp(self, n: Tensor) -> Tensor:
        return self.ls(self.site_linear("fc2", self.mlp_drop(self.mlp_act(self.site_linear("fc1", n)))))

    def site_linear(self, name: str, x: Tensor) -> Tensor:
        """A linear of the block, which may be a part of another one."""
        site = self.peft_sites[name]
        if isinstance(site.module, nn.Module):
            return site.module(x)
        return site.run(lambda x: F.linear(x, site.module.weight, site.module.bias), x)

    def site_attend(self, qkv: Sequence[Tensor], n: Tensor, mask: Tensor | None) -> Tensor:
        """The attention's output before its projection."""
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in qkv)
        q, k, v = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2), v.transpose(1, 2)
        scores = functools.partial(self.site_scores, mask=mask)
        q, k, v, _ = self.site_core(q, k, v, n, scores)
        if self.fused_attn:
            seen = mask_for(mask, q.shape[2], k.shape[2], self.peft_flow.own_prefix)
            drop = self.attn_drop.p if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=drop)
        else:
            y = self.attn_drop(scores(q, k).softmax(dim=-1)) @ v
        return y.transpose(1, 2).flatten(2)

    def site_scores(self, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = (q * self.scale) @ k.transpose(-2, -1)
        return masked(scores, mask_for(mask, q.shape[2], k.shape[2], self.peft_flow.own_prefix))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        refuse_causal(is_causal)
        return self.site_forward(x, mask=attn_mask)


@BLOCKS.register_module(name="timm.DiffParallelScalingBlock")
class TimmDiffParallelScalingBlock(TimmParallelScalingBlock):
    """``DiffParallelScalingBlock``: a head is the difference of two; one linear takes both branches' results.

    ``proj`` and ``fc2`` are columns of that linear, whose bias counts as that of ``fc2``.
    """

    site_targets = (f"{_MODULE}.DiffParallelScalingBlock",)

    def site_attend(self, qkv: Sequence[Tensor], n: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = qkv
        q, k = (part.unflatten(-1, (2 * self.num_heads, -1)).transpose(1, 2) for part in (q, k))
        q, k = joined(self.q_norm(q)), joined(self.k_norm(k))
        v = v.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        scores = functools.partial(self.site_scores, mask=mask)
        q, k, v, _ = self.site_core(q, k, v, n, scores)
        share, drop = self._compute_lambda().type_as(q), self.attn_drop_p if self.training else 0.0
        if self.fused_attn:
            seen = mask_for(mask, q.shape[2], k.shape[2], self.peft_flow.own_prefix)
            halves = zip(q.chunk(2, dim=-1), k.chunk(2, dim=-1), strict=True)
            first, second = (
                F.scaled_dot_product_attention(*half, v, attn_mask=seen, dropout_p=drop) for half in halves
            )
            y = first - share * second
        else:
            first, second = self.attn_drop(scores(q, k).softmax(dim=-1)).unflatten(1, (-1, 2)).unbind(2)
            y = (first - share * second) @ v
        return (self.sub_norm(y) * (1 - self.lambda_init)).transpose(1, 2).flatten(2)

    def site_scores(self, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k = (part.unflatten(-1, (2, -1)).transpose(2, 3).flatten(1, 2) for part in (q, k))  # two of every head
        return super().site_scores(q, k, mask)


def _drawn(draw: Tensor, drop: Operation) -> Operation:
    """A DropPath whose first call takes a draw that was made already; later ones draw anew."""
    draws = [draw]
    return lambda y: y * draws.pop() if draws else drop(y)
