"""timm's MaxxVit: MaxViT, MaxxViT and CoAtNet."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import block_kinds, full_name, read_block, require_plain
from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.timm.attention import attend, plain_scores
from vpeft.core.backbones.hosts.timm.convnext import add_output_norm, head_parts
from vpeft.core.backbones.hosts.timm.mlp import mlp_modules
from vpeft.core.backbones.shared.maps import MapModulesBlock, as_map
from vpeft.core.backbones.sites.stated_linear import HeadedLinear, StatedLinear
from vpeft.core.backbones.windows.shifted import WindowBlock, pad_bias
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS

_MODULE = "timm.models.maxxvit"
_STAGED = tuple(
    f"{_MODULE}.{name}"
    for name in ("MbConvBlock", "ConvNeXtBlock", "MaxxVitBlock", "ParallelMaxxVitBlock", "TransformerBlock2d")
)
_POSITIONS = tuple(f"timm.layers.pos_embed_rel.{name}" for name in ("RelPosBias", "RelPosBiasTf", "RelPosMlp"))


class MaxxBlock(SiteBlock):
    """What the blocks share: norm, attention, LayerScale and DropPath of each unit, and an MLP."""

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
        return tuple(None if isinstance(scale, nn.Identity) else scale for scale in (block.ls1, block.ls2))

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ls2(self.mlp(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)


class MaxxAttentionBlock(MaxxBlock, WindowBlock):
    """Attention in the windows of a map, or of its grid: every window takes tokens at a stride over the whole map."""

    site_parts = {"attn": ("{0}.AttentionCl",), "attn.rel_pos": (*_POSITIONS, None), "mlp": ("timm.layers.mlp.Mlp",)}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn = block.attn
        qkv = HeadedLinear(attn.qkv, attn.num_heads, [attn.dim_head] * 3) if attn.head_first else attn.qkv
        return {
            "norm1": block.norm1,
            "qkv": qkv,
            "proj": attn.proj,
            "norm2": block.norm2,
            **mlp_modules(block.mlp),
        }

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        return self.ls1(super().site_attention(x))

    def site_window_size(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        size = tuple(self.partition_size)
        if any(extent % part for extent, part in zip(extents, size, strict=True)):
            raise UserError(
                f"a map of {extents[0]}x{extents[1]} is not cut into parts of {size[0]}x{size[1]}: give images of the "
                "size that the backbone was built for, or call its set_input_size before attaching."
            )
        return size, (0, 0)

    def site_mask(self, *args: Any) -> None:
        return None

    def site_partition(self, x: Tensor, window: tuple[int, ...]) -> Tensor:
        from timm.models.maxxvit import grid_partition, window_partition

        return (window_partition if self.partition_block else grid_partition)(x, window).flatten(1, 2)

    def site_reverse(self, windows: Tensor, window: tuple[int, ...], extents: tuple[int, ...]) -> Tensor:
        from timm.models.maxxvit import grid_reverse, window_reverse

        restore = window_reverse if self.partition_block else grid_reverse
        return restore(windows.reshape(-1, *window, windows.shape[-1]), window, extents)

    def site_window(self, x: Tensor, mask: Tensor | None, area: int) -> Tensor:
        attn = self.attn
        batch, tokens, _ = x.shape
        if attn.head_first:
            qkv = self.site_headed("qkv", attn.qkv, x).view(batch, tokens, attn.num_heads, -1).transpose(1, 2)
            q, k, v = qkv.chunk(3, dim=3)
        else:
            q, k, v = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, -1).transpose(1, 3).unbind(2)
        biases = self.site_biases(area)
        scores = functools.partial(self.site_scores, biases=biases)
        q, k, v, _ = self.site_core(q, k, v, x, scores)
        bias = pad_bias(biases[0], q.shape[-2], k.shape[-2]) if attn.fused_attn and biases else None
        return attn.proj_drop(attn.proj(attend(attn, q, k, v, scores, bias)))

    def site_biases(self, area: int) -> list[Tensor]:
        """The bias ``(1, heads, area, area)`` by relative position, where there is one."""
        positions = self.attn.rel_pos
        if positions is not None and positions.window_size[0] * positions.window_size[1] != area:
            raise UserError(
                f"the attention has relative positions for a map of {'x'.join(map(str, positions.window_size))}, and "
                f"gets {'x'.join(map(str, self.peft_flow.grid))}: give images of the size that the backbone was built "
                "for, or call its set_input_size before attaching."
            )
        return [] if positions is None else [positions.get_bias()]

    def site_scores(self, q: Tensor, k: Tensor, biases: list[Tensor]) -> Tensor:
        return plain_scores(self.attn, q, k, biases)


@BLOCKS.register_module(name="timm.PartitionAttentionCl")
class TimmPartitionBlock(MaxxAttentionBlock):
    """``PartitionAttentionCl`` on ``(B, H, W, C)``."""

    site_targets = (f"{_MODULE}.PartitionAttentionCl",)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[1:3]
        return self.site_forward(x.flatten(1, 2), grid).unflatten(1, grid)


class MaxxMapBlock(MapModulesBlock, MaxxAttentionBlock):
    """Norms, 1x1 convolutions and LayerScale on ``(B, C, H, W)``."""

    site_parts = {
        "attn": ("{0}.Attention2d",),
        "attn.rel_pos": (*_POSITIONS, None),
        "mlp": ("timm.layers.mlp.ConvMlp",),
    }

    @classmethod
    def site_modules(cls, block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn = block.attn
        heads, width = (attn.num_heads, attn.dim_head) if attn.head_first else (1, attn.num_heads * attn.dim_head)
        return {
            "norm1": block.norm1,
            "qkv": HeadedLinear(attn.qkv, heads, [width] * 3),
            "proj": attn.proj,
            "norm2": block.norm2,
            **mlp_modules(block.mlp),
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.site_map(self.norm1, x)

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        return self.site_map(self.ls1, WindowBlock.site_attention(self, x))

    def site_partition(self, x: Tensor, window: tuple[int, ...]) -> Tensor:
        from timm.models.maxxvit import grid_partition_nchw, window_partition_nchw

        cut = window_partition_nchw if self.partition_block else grid_partition_nchw
        return cut(x.permute(0, 3, 1, 2), window).flatten(2).transpose(1, 2)

    def site_reverse(self, windows: Tensor, window: tuple[int, ...], extents: tuple[int, ...]) -> Tensor:
        from timm.models.maxxvit import grid_reverse_nchw, window_reverse_nchw

        restore = window_reverse_nchw if self.partition_block else grid_reverse_nchw
        return restore(windows.transpose(1, 2).unflatten(2, window), window, extents).permute(0, 2, 3, 1)

    def site_window(self, x: Tensor, mask: Tensor | None, area: int) -> Tensor:
        return self.site_attend(x, tuple(self.partition_size))

    def site_attend(self, x: Tensor, extents: tuple[int, ...]) -> Tensor:
        """Attention of the tokens of a map (or window) of ``extents``, with those before it."""
        attn = self.attn
        batch, tokens, _ = x.shape
        y = self.site_headed("qkv", lambda x: self.site_map(attn.qkv, x, extents), x).transpose(1, 2)
        if attn.head_first:
            q, k, v = y.reshape(batch, attn.num_heads, -1, tokens).chunk(3, dim=2)
        else:
            q, k, v = y.reshape(batch, 3, attn.num_heads, -1, tokens).unbind(1)
        biases = self.site_biases(extents[0] * extents[1])
        scores = functools.partial(self.site_scores, biases=biases)
        q, k, v, _ = self.site_core(*(t.transpose(-1, -2) for t in (q, k, v)), x, scores)
        if attn.fused_attn:
            bias = pad_bias(biases[0], q.shape[-2], k.shape[-2]) if biases else None
            parts = (t.contiguous() for t in (q, k, v))
            drop = attn.attn_drop.p if attn.training else 0.0
            y = F.scaled_dot_product_attention(*parts, attn_mask=bias, dropout_p=drop).transpose(-1, -2)
        else:
            weights = attn.attn_drop(scores(q, k).softmax(dim=-1))
            y = v.transpose(-1, -2) @ weights.transpose(-2, -1)
        y = y.reshape(batch, -1, tokens).transpose(1, 2)
        return self.site_map(lambda y: attn.proj_drop(attn.proj(y)), y, extents)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.site_map(self.norm2, x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.site_map(lambda x: self.ls2(self.mlp(x)), x)


@BLOCKS.register_module(name="timm.PartitionAttention2d")
class TimmPartition2dBlock(MaxxMapBlock):
    """``PartitionAttention2d``, the same as ``PartitionAttentionCl`` on ``(B, C, H, W)``."""

    site_targets = (f"{_MODULE}.PartitionAttention2d",)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[2:]
        return as_map(self.site_forward(x.flatten(2).transpose(1, 2), grid), grid)


@BLOCKS.register_module(name="timm.TransformerBlock2d")
class TimmTransformer2dBlock(MaxxMapBlock):
    """``TransformerBlock2d`` of CoAtNet: attention over the whole map.

    The first of a stage pools its map behind the norm, and on the identity path ahead of a projection, which is
    ``skip``. Tokens off the map are not pooled.
    """

    site_targets = (f"{_MODULE}.TransformerBlock2d",)
    identity_first = True

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if isinstance(block.shortcut, nn.Identity) or not isinstance(block.shortcut.expand, nn.Identity):
            return None
        return "a block that pools its map and is as wide at both ends is not re-stated."

    @classmethod
    def site_modules(cls, block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        modules = MaxxMapBlock.site_modules.__func__(cls, block)
        if isinstance(block.norm1, nn.Sequential):
            modules |= {"norm1": block.norm1.norm, "skip": block.shortcut.expand}
        return modules

    @property
    def site_pools(self) -> bool:
        """Whether it begins a stage."""
        return isinstance(self.norm1, nn.Sequential)

    def site_pool(self, pool: nn.Module, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The tokens with those of the map pooled, and the extents of the pooled map."""
        flow = self.peft_flow
        prefix, x = x[:, : flow.prefix], x[:, flow.prefix :]
        spatial = pool(as_map(x, flow.grid))
        x = spatial.flatten(2).transpose(1, 2)
        return torch.cat((prefix, x), dim=1) if flow.prefix else x, tuple(spatial.shape[2:])

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.site_map(self.norm1.norm if self.site_pools else self.norm1, x)

    def site_identity(self, name: str, x: Tensor, n: Tensor) -> Tensor:
        if name != "attn" or not self.site_pools:
            return x
        return self.site_map(self.shortcut.expand, *self.site_pool(self.shortcut.pool, x))

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        if self.site_pools:
            x, self.peft_flow.grid = self.site_pool(self.norm1.down, x)
        return self.site_map(self.ls1, self.site_attend(x, self.peft_flow.grid))

    def site_places(self) -> None:
        return None

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        if shared_rel_pos is not None:
            raise UserError("relative positions given from outside (shared_rel_pos) are not re-stated: leave them out.")
        x = self.site_forward(x.flatten(2).transpose(1, 2), x.shape[2:])
        return as_map(x, self.peft_flow.grid)


@BLOCKS.register_module(name="timm.ParallelPartitionAttention")
class TimmParallelPartitionBlock(MaxxBlock):
    """``ParallelPartitionAttention``: two attentions side by side, which stay as they are, and the sites of its MLP."""

    site_targets = (f"{_MODULE}.ParallelPartitionAttention",)
    site_parts = {"mlp": ("timm.layers.mlp.Mlp",)}

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return 0

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[None, nn.Module | None]:
        return None, MaxxBlock.site_scales(block)[1]

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {"norm2": block.norm2, **mlp_modules(block.mlp)}

    def site_start(self, x: Tensor) -> Tensor:
        spatial = self.norm1(x).unflatten(1, self.peft_flow.grid)
        return x + self.drop_path1(self.ls1(self._partition_attn(spatial))).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[1:3]
        return self.site_forward(x.flatten(1, 2), grid).unflatten(1, grid)


@HOSTS.register_module(name="timm.MaxxVit")
class TimmMaxxVit(Host):
    """timm ``MaxxVit``: MaxViT, MaxxViT, CoAtNet.

    Its blocks are those with attention. The convolutions of the stem, and the MBConv and ConvNeXt blocks between them
    are trained by what goes by roles (BitFit, LNTune, DiffFit, Full); LoRA and the others leave them alone.
    """

    targets = (f"{_MODULE}.MaxxVit",)

    def describe(self) -> None:
        backbone, kinds = self.backbone, block_kinds()
        between = False
        for stage, group in enumerate(backbone.stages):
            for number, outer in enumerate(group.blocks):
                where = f"stages.{stage}.blocks.{number}"
                require_plain(outer, _STAGED, where)
                own = [(name, m) for name, m in outer.named_modules() if full_name(type(m)) in kinds]
                if not own or own[0][1] is not outer:
                    between |= bool(self.blocks)
                for name, module in own:
                    at = f"{where}.{name}" if name else where
                    self.blocks.append(read_block(module, len(self.blocks), stage, at))
                for name, _ in outer.named_parameters():
                    if name.endswith("ls.gamma"):  # of a ConvNeXt block
                        self.special[f"{where}.{name}"] = "layer_scale"
        if not self.blocks:
            raise UserError("none of the blocks of this MaxxVit has attention (block_type 'T', 'M' or 'PM').")
        self.carries_tokens, self.adds_between = not between, True
        self.embeds(backbone.stem.conv2, backbone.stem)
        self.patch_size, self.in_channels = (backbone.stem.stride,) * 2, backbone.in_chans
        self.pools_map, self.flat_stream = True, False
        add_output_norm(self, backbone.norm, backbone.head)
        names = [name for name, _ in backbone.named_parameters() if name.endswith("rel_pos.mlp.fc2.bias")]
        self.special |= dict.fromkeys(names, "unused")  # one number for all scores cancels in the softmax

    def heads(self) -> list[str]:
        return head_parts(self.backbone.head)
