"""timm's Levit, of linears or of 1x1 convolutions, each with a BatchNorm behind it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block import read_block, require_plain
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.shared.maps import MapModulesBlock, as_map
from vpeft.core.backbones.sites.stated_linear import HeadedLinear, StackedLinear, StatedLinear
from vpeft.core.backbones.windows.shifted import pad_bias
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS

_MODULE = "timm.models.levit"
_LINEAR = ("{0}.LinearNorm", "{0}.ConvNorm")


class QueriesApart(StackedLinear):
    """A linear of queries, and one of keys and values head by head."""

    def __init__(self, q: nn.Module, kv: nn.Module, heads: int, widths: tuple[int, int]) -> None:
        self.kv = HeadedLinear(kv, heads, widths)
        super().__init__(q, kv)

    @property
    def sizes(self) -> list[int]:
        """Outputs of the two."""
        return [weight.shape[0] for weight in self.weights]

    @property
    def rows(self) -> list[int]:
        """Rows of queries, keys and values."""
        return [self.sizes[0], *self.kv.rows]

    def arranged(self, values: Tensor, dim: int = 0) -> Tensor:
        return self._turned(self.kv.arranged, values, dim)

    def restored(self, values: Tensor, dim: int = 0) -> Tensor:
        return self._turned(self.kv.restored, values, dim)

    def _turned(self, turn: Callable[..., Tensor], values: Tensor, dim: int) -> Tensor:
        q, kv = values.split(self.sizes, dim)
        kv = turn(kv, dim)
        return torch.cat((q.flatten(1) if kv.dim() < q.dim() else q, kv), dim)


class LevitBase(MapModulesBlock):
    """Norms behind the branches, whose last linear has none of its own; and a bias by distance in rows and columns."""

    norm_behind = True
    free_keys = True

    @classmethod
    def site_linear_modules(cls, block: nn.Module, attn: nn.Module) -> dict[str, nn.Module]:
        """The modules outside of queries, keys and values."""
        mlp = block.mlp
        return {
            "norm1": attn.proj.ln.bn,
            "proj": attn.proj.ln.linear,
            "norm2": mlp.ln2.bn,
            "fc1": mlp.ln1.linear,
            "act": mlp.act,
            "fc2": mlp.ln2.linear,
        }

    @classmethod
    def site_takes_maps(cls, block: nn.Module) -> bool:
        return isinstance(block.mlp.ln2.linear, nn.Conv2d)

    @property
    def site_msa(self) -> nn.Module:
        """The module that holds the attention."""
        raise NotImplementedError(f"{type(self).__name__} states no site_msa")

    @property
    def site_is_map(self) -> bool:
        """Whether its linears are convolutions."""
        return self.site_msa.use_conv

    def site_run(self, module: Callable[[Tensor], Tensor], x: Tensor, extents: tuple[int, ...] | None = None) -> Tensor:
        """A linear, or a convolution on the map of its tokens."""
        return self.site_map(module, x, extents) if self.site_is_map else module(x)

    def site_bn(self, norm: nn.Module, x: Tensor, extents: tuple[int, ...] | None = None) -> Tensor:
        """A BatchNorm of tokens."""
        if self.site_is_map:
            return self.site_map(norm, x, extents)
        return norm(x.flatten(0, -2)).reshape_as(x)

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.site_bn(self.site_msa.proj.ln.bn, x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.site_bn(self.mlp.ln2.bn, x)

    def site_mlp(self, x: Tensor) -> Tensor:
        mlp = self.mlp
        hidden = self.site_bn(mlp.ln1.bn, self.site_run(mlp.ln1.linear, x))
        return self.site_run(lambda x: mlp.ln2.linear(mlp.drop(mlp.act(x))), hidden)

    def site_weigh(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of queries ``(B, heads, N, key width)`` through its activation and the last linear."""
        weights = self.site_scores(q, k).softmax(dim=-1)
        if self.site_is_map:
            y = (v.transpose(-2, -1) @ weights.transpose(-2, -1)).flatten(1, 2).transpose(1, 2)
        else:
            y = (weights @ v).transpose(1, 2).flatten(2)
        proj = self.site_msa.proj
        return self.site_run(lambda y: proj.ln.linear(proj.act(y)), y, self.peft_flow.grid)

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        msa = self.site_msa
        biases = msa.attention_biases[:, msa.attention_bias_idxs]  # never the cached ones, which are of older values
        return (q @ k.transpose(-2, -1)) * msa.scale + pad_bias(biases, q.shape[-2], k.shape[-2])

    def site_tokens(self, x: Tensor) -> Tensor:
        """The map, or the tokens, that it is given."""
        resolution = tuple(self.site_msa.resolution)
        if x.dim() == 4:
            x = x.flatten(2).transpose(1, 2) if tuple(x.shape[2:]) == resolution else None
        elif x.shape[1] != resolution[0] * resolution[1]:
            x = None
        if x is None:
            raise UserError(
                f"this Levit was built for maps of {resolution[0]}x{resolution[1]} in this block: give images of the "
                "size that it was built for (img_size)."
            )
        return x

    def forward(self, x: Tensor) -> Tensor:
        is_map = x.dim() == 4
        x = self.site_forward(self.site_tokens(x), tuple(self.site_msa.resolution))
        return as_map(x, self.peft_flow.grid) if is_map else x


@BLOCKS.register_module(name="timm.LevitBlock")
class TimmLevitBlock(LevitBase):
    """``LevitBlock``."""

    site_targets = (f"{_MODULE}.LevitBlock",)
    site_parts = {
        "attn": ("{0}.Attention",),
        "attn.qkv": _LINEAR,
        "attn.proj.ln": _LINEAR,
        "mlp": ("{0}.LevitMlp",),
        "mlp.ln1": _LINEAR,
        "mlp.ln2": _LINEAR,
    }

    @classmethod
    def site_modules(cls, block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn = block.attn
        widths = (attn.key_dim, attn.key_dim, attn.val_dim)
        qkv = HeadedLinear(attn.qkv.linear, attn.num_heads, widths)
        return {"qkv": qkv, **cls.site_linear_modules(block, attn)}

    @property
    def site_msa(self) -> nn.Module:
        return self.attn

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        attn = self.attn
        batch, tokens, _ = x.shape
        y = self.site_headed("qkv", functools.partial(self.site_run, attn.qkv.linear), x)
        y = self.site_bn(attn.qkv.bn, y)
        widths = (attn.key_dim, attn.key_dim, attn.val_dim)
        if self.site_is_map:
            parts = y.transpose(1, 2).reshape(batch, attn.num_heads, -1, tokens).split(widths, dim=2)
            q, k, v = (part.transpose(-2, -1) for part in parts)
        else:
            q, k, v = (part.transpose(1, 2) for part in y.view(batch, tokens, attn.num_heads, -1).split(widths, dim=3))
        q, k, v, _ = self.site_core(q, k, v, x)
        return self.site_weigh(q, k, v)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)


@BLOCKS.register_module(name="timm.LevitDownsample")
class TimmLevitDownsample(LevitBase):
    """``LevitDownsample``: queries are of a sampled map, and no identity path goes past its attention.

    Tokens off the map have queries too, and are not sampled.
    """

    site_targets = (f"{_MODULE}.LevitDownsample",)
    site_parts = {
        "attn_downsample": ("{0}.AttentionDownsample",),
        "attn_downsample.kv": _LINEAR,
        "attn_downsample.q.ln": _LINEAR,
        "attn_downsample.proj.ln": _LINEAR,
        "mlp": ("{0}.LevitMlp",),
        "mlp.ln1": _LINEAR,
        "mlp.ln2": _LINEAR,
    }
    full_keys = False
    replaces = True

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attn_downsample.num_heads

    @classmethod
    def site_modules(cls, block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn = block.attn_downsample
        qkv = QueriesApart(attn.q.ln.linear, attn.kv.linear, attn.num_heads, (attn.key_dim, attn.val_dim))
        return {"qkv": qkv, **cls.site_linear_modules(block, attn)}

    @property
    def site_msa(self) -> nn.Module:
        return self.attn_downsample

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        attn, flow = self.attn_downsample, self.peft_flow
        batch, tokens, _ = x.shape
        whole, prefix = flow.grid, x[:, : flow.prefix]
        sampled = self.site_sample(x[:, flow.prefix :], whole)
        grid = tuple(-(-extent // attn.stride) for extent in whole)
        if flow.prefix:
            sampled = torch.cat((prefix, sampled), dim=1)
        kv, q = self.site_projected(x, sampled, whole, grid)
        kv, q = self.site_bn(attn.kv.bn, kv, whole), self.site_bn(attn.q.ln.bn, q, grid)
        widths = (attn.key_dim, attn.val_dim)
        if self.site_is_map:
            parts = kv.transpose(1, 2).reshape(batch, attn.num_heads, -1, tokens).split(widths, dim=2)
            k, v = (part.transpose(-2, -1) for part in parts)
            q = q.transpose(1, 2).reshape(batch, attn.num_heads, attn.key_dim, -1).transpose(-2, -1)
        else:
            parts = kv.view(batch, tokens, attn.num_heads, -1).split(widths, dim=3)
            k, v = (part.transpose(1, 2) for part in parts)
            q = q.view(batch, -1, attn.num_heads, attn.key_dim).transpose(1, 2)
        q, k, v, _ = self.site_core(q, k, v, x)
        flow.grid = grid
        return self.site_weigh(q, k, v)

    def site_sample(self, x: Tensor, extents: tuple[int, int]) -> Tensor:
        """The tokens of the map that have queries."""
        down = self.attn_downsample.q.down
        return self.site_map(down, x, extents) if self.site_is_map else down(x)

    def site_projected(
        self, x: Tensor, sampled: Tensor, whole: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Keys with values, and queries, as their linears give them."""
        attn, site = self.attn_downsample, self.peft_sites["qkv"]
        keys = functools.partial(self.site_run, attn.kv.linear, extents=whole)
        queries = functools.partial(self.site_run, attn.q.ln.linear, extents=grid)
        if not site.placed(*site.allowed):
            return keys(x), queries(sampled)
        first, rest = site.module.sizes
        own = site.module.kv

        def beside(x: Tensor) -> Tensor:
            return torch.cat((x.new_zeros(*x.shape[:-1], first), own.arranged(keys(x), dim=2)), dim=-1)

        def before(x: Tensor) -> Tensor:
            return torch.cat((queries(x), x.new_zeros(*x.shape[:-1], rest)), dim=-1)

        kv, q = site.run(beside, x)[..., first:], site.run(before, sampled)[..., :first]
        return own.restored(kv, dim=2), q.contiguous()

    def site_drop1(self, x: Tensor) -> Tensor:
        return x

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)


@HOSTS.register_module(name="timm.Levit")
class TimmLevit(Host):
    """timm ``Levit`` and ``LevitDistilled``, which has a second head; a block between stages samples its queries."""

    targets = (f"{_MODULE}.Levit", f"{_MODULE}.LevitDistilled")

    def describe(self) -> None:
        backbone = self.backbone
        for number, stage in enumerate(backbone.stages):
            require_plain(stage, f"{_MODULE}.LevitStage", f"stages.{number}")
            if not isinstance(stage.downsample, nn.Identity):
                self.blocks.append(
                    read_block(stage.downsample, len(self.blocks), number, f"stages.{number}.downsample")
                )
            self.add_blocks(stage.blocks, f"stages.{number}.blocks", number)
        stem = [module for module in backbone.stem.modules() if isinstance(module, nn.Conv2d)]
        self.embeds(stem[-1], backbone.stem)
        self.patch_size, self.in_channels = (backbone.stem.stride,) * 2, backbone.in_chans
        self.pools_map, self.flat_stream = True, not backbone.use_conv
        names = [name for name, _ in backbone.named_parameters() if name.endswith(".attention_biases")]
        self.special = dict.fromkeys(names, "rel_pos_bias")

    def heads(self) -> list[str]:
        return [
            name for name in ("head", "head_dist") if list(getattr(self.backbone, name, nn.Identity()).parameters())
        ]
