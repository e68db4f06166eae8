"""The blocks of timm's ViT in which attention and MLP stand side by side, as in ViT-22B."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import Operation, SiteBlock
from vpeft.core.backbones.hosts.timm.attention import attended_difference, mask_for, masked
from vpeft.core.backbones.hosts.timm.vit import joined, refuse_causal
from vpeft.core.backbones.sites.stated_linear import SlicedLinear, StatedLinear
from vpeft.registry import BLOCKS

_MODULE = "timm.models.vision_transformer"
#: Where anything is placed at one of these, the block is two units, one behind the other.
_UNITS = ("norm1", "core", "norm2", "attn_branch", "mlp_branch", "attn_residual", "mlp_residual")


@dataclass
class _Read:
    """What has been made of the normed stream ``n`` in a pass.

    Attributes:
        n: The normed stream.
        fc1: Output of the rows of the MLP, None where they are yet to run.
        qkv: Likewise of the attention's rows.
        mixed: What the attention's projection reads.
        hidden: What the MLP's last linear reads.
        first: Output of the attention's projection.
        second: Output of the MLP's last linear.
    """

    n: Tensor
    fc1: Tensor | None = None
    qkv: Tensor | None = None
    mixed: Tensor | None = None
    hidden: Tensor | None = None
    first: Tensor | None = None
    second: Tensor | None = None

    def given(self, n: Tensor, output: Tensor | None) -> Tensor | None:
        """An output of ``n``, where it is the stream that was read."""
        return output if n is self.n else None


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
        sites, n = self.peft_sites, self.in_norm(x)
        some = any(sites[name].placed("around") for name in ("attn_branch", "mlp_branch"))
        read = _Read(n) if some else self.site_read(n)
        if not any(sites[name].placed(*sites[name].allowed) for name in _UNITS):
            read.mixed, read.hidden = self.site_mix(n, read, mask), self.site_hide(n, read)
            return x + self.drop_path(self.ls(self.site_both(read)))
        seen, last = (sites[name].run(lambda y: n if y is x else self.in_norm(y), x) for name in ("norm1", "norm2"))
        y = sites["attn_branch"].run(functools.partial(self.site_attention, read=read, mask=mask), seen)
        z = sites["mlp_branch"].run(functools.partial(self.site_mlp, read=read), last)
        drop, drops = self.drop_path, (self.drop_path, self.drop_path)
        if self.training and not isinstance(drop, nn.Identity):
            draw = drop(y.new_ones(len(y), 1, 1))
            drop, drops = (lambda y: y * draw), (_drawn(draw, drop), _drawn(draw, drop))
        first, second = sites["attn_residual"], sites["mlp_residual"]
        out = first.after(x, first.shortcut(x) + sites["attn_branch"].dropped(seen, y, drops[0]))
        out = second.after(x, second.shortcut(out) + sites["mlp_branch"].dropped(last, z, drops[1]))
        if some:
            return out
        # What is placed is added to what the block gives without it: one unit behind the other rounds differently.
        plain = x + drop(self.ls(read.first)) + drop(self.ls(read.second))
        return x + drop(self.ls(self.site_both(read))) + (out - plain)

    def site_read(self, n: Tensor) -> _Read:
        """What the one linear makes of the normed stream."""
        width = self.in_split[0]
        fc1, qkv = self.in_proj(n).split((width, sum(self.in_split) - width), dim=-1)
        return _Read(n, fc1 if self.mlp_bias is None else fc1 + self.mlp_bias, qkv)

    def site_both(self, read: _Read) -> Tensor:
        """Both branches together, without LayerScale."""
        parts = {"proj": (read.mixed, "first"), "fc2": (read.hidden, "second")}
        for name, (value, own) in parts.items():
            site = self.peft_sites[name]
            if getattr(read, own) is None and (self.out_proj is None or site.placed(*site.allowed)):
                setattr(read, own, self.site_linear(name, value))
        if self.out_proj is None:
            return read.first + read.second
        y = self.out_proj(torch.cat((read.mixed, read.hidden), dim=-1))
        for name, (value, own) in parts.items():
            site = self.peft_sites[name]
            if site.placed(*site.allowed):
                y = y + (getattr(read, own) - _run(site.module, value))
        return y

    def site_mix(self, n: Tensor, read: _Read, mask: Tensor | None) -> Tensor:
        """The attention's output before its projection."""
        return self.site_attend(self.site_linear("qkv", n, read.given(n, read.qkv)).chunk(3, dim=-1), n, mask)

    def site_hide(self, n: Tensor, read: _Read) -> Tensor:
        """The MLP's hidden layer."""
        return self.mlp_drop(self.mlp_act(self.site_linear("fc1", n, read.given(n, read.fc1))))

    def site_attention(self, n: Tensor, read: _Read, mask: Tensor | None = None) -> Tensor:
        read.mixed = self.site_mix(n, read, mask)
        read.first = self.site_linear("proj", read.mixed)
        return self.ls(read.first)

    def site_mlp(self, n: Tensor, read: _Read) -> Tensor:
        read.hidden = self.site_hide(n, read)
        read.second = self.site_linear("fc2", read.hidden)
        return self.ls(read.second)

    def site_linear(self, name: str, x: Tensor, given: Tensor | None = None) -> Tensor:
        """A linear of the block, which may be a part of another one that has ``given`` its output of ``x``."""
        site = self.peft_sites[name]
        if isinstance(site.module, nn.Module):
            return site.module(x)
        return site.run(lambda y: given if given is not None and y is x else _run(site.module, y), x)

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
        y = attended_difference(self, q, k, v, scores, mask, self.peft_flow.own_prefix)
        return y.transpose(1, 2).flatten(2)

    def site_scores(self, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k = (part.unflatten(-1, (2, -1)).transpose(2, 3).flatten(1, 2) for part in (q, k))  # two of every head
        return super().site_scores(q, k, mask)


def _run(linear: StatedLinear, x: Tensor) -> Tensor:
    return F.linear(x, linear.weight, linear.bias)


def _drawn(draw: Tensor, drop: Operation) -> Operation:
    """A DropPath whose first call takes a draw that was made already; later ones draw anew."""
    draws = [draw]
    return lambda y: y * draws.pop() if draws else drop(y)
