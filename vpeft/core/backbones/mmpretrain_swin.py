"""mmpretrain's SwinTransformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpeft.core.backbones.blocks import SiteBlock
from vpeft.core.backbones.host import Block, Host, require_plain
from vpeft.core.backbones.windows import gather, pad_bias, spread
from vpeft.errors import UserError
from vpeft.registry import HOSTS


class SwinBlock(SiteBlock):
    """``SwinBlock`` with ``ShiftWindowMSA`` and ``WindowMSA``; prefix tokens go through every window."""

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        msa, flow = self.attn, self.peft_flow
        prefix, x = (x[:, : flow.prefix], x[:, flow.prefix :]) if flow.prefix else (None, x)
        batch, _, dim = x.shape
        height, width = flow.hw
        size, shift = msa.window_size, msa.shift_size
        if min(height, width) == size:
            shift = shift if msa.pad_small_map else 0
        elif min(height, width) < size and not msa.pad_small_map:
            raise UserError(
                f"the token map {height}x{width} is smaller than the window {size}: set pad_small_map=True or "
                "window_size lower in the backbone's config."
            )
        x = x.view(batch, height, width, dim)
        x = F.pad(x, (0, 0, 0, (size - width % size) % size, 0, (size - height % size) % size))
        padded = x.shape[1:3]
        if shift > 0:
            x = torch.roll(x, shifts=(-shift, -shift), dims=(1, 2))
        mask = msa.get_attn_mask(padded, window_size=size, shift_size=shift, device=x.device)
        windows = msa.window_partition(x, size).view(-1, size**2, dim)
        if prefix is not None:
            windows = spread(prefix, windows)
        windows = self.site_window(windows, mask)
        if prefix is not None:
            prefix, windows = gather(windows, batch, prefix.shape[1])
        x = msa.window_reverse(windows.reshape(-1, size, size, dim), *padded, size)
        if msa.shift_size > 0:
            x = torch.roll(x, shifts=(shift, shift), dims=(1, 2))
        if padded != (height, width):
            x = x[:, :height, :width, :].contiguous()
        x = x.view(batch, height * width, dim)
        return x if prefix is None else torch.cat((prefix, x), dim=1)

    def site_window(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention inside windows: ``(B * nW, tokens, C)`` to the same, with bias and mask on the map's tokens."""
        msa = self.attn.w_msa
        batch, tokens, dim = x.shape
        qkv = msa.qkv(x).reshape(batch, tokens, 3, msa.num_heads, dim // msa.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v, _ = self.site_core(qkv[0], qkv[1], qkv[2], x)
        q = q * msa.scale
        attn = q @ k.transpose(-2, -1)
        keys = attn.shape[-1]
        area = msa.window_size[0] * msa.window_size[1]
        bias = msa.relative_position_bias_table[msa.relative_position_index.view(-1)].view(area, area, -1)
        bias = bias.permute(2, 0, 1).contiguous()
        attn = attn + pad_bias(bias, tokens, keys).unsqueeze(0)
        if mask is not None:
            count = mask.shape[0]
            mask = pad_bias(mask, tokens, keys)
            attn = attn.view(batch // count, count, msa.num_heads, tokens, keys) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, msa.num_heads, tokens, keys)
        attn = msa.attn_drop(msa.softmax(attn))
        y = (attn @ v).transpose(1, 2).reshape(batch, tokens, dim)
        return msa.proj_drop(msa.proj(y))

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.attn.drop(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ffn.gamma2(self.ffn.layers(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.ffn.dropout_layer(x)

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            # Not only where x needs a gradient: over a frozen first block the modules inside need theirs.
            return checkpoint(self.site_forward, x, hw_shape, use_reentrant=False)
        return self.site_forward(x, hw_shape)


@HOSTS.register_module(name="mmpretrain.SwinTransformer")
class MMPretrainSwin(Host):
    """mmpretrain ``SwinTransformer``."""

    target = "mmpretrain.models.backbones.swin_transformer.SwinTransformer"
    block_target = "mmpretrain.models.backbones.swin_transformer.SwinBlock"
    block_mixin = SwinBlock

    def describe(self) -> None:
        backbone = self.backbone
        for stage, sequence in enumerate(backbone.stages):
            for position, module in enumerate(sequence.blocks):
                where = f"stages.{stage}.blocks.{position}"
                require_plain(module, self.block_target, where)
                require_plain(module.attn, "mmpretrain.models.utils.attention.ShiftWindowMSA", f"{where}.attn")
                require_plain(module.attn.w_msa, "mmpretrain.models.utils.attention.WindowMSA", f"{where}.attn.w_msa")
                require_plain(module.ffn, "mmcv.cnn.bricks.transformer.FFN", f"{where}.ffn")
                heads, hidden = module.attn.w_msa.num_heads, module.ffn.feedforward_channels
                dim = module.ffn.embed_dims
                self.blocks.append(Block(module, len(self.blocks), stage, dim, heads, hidden))
        projection = backbone.patch_embed.projection
        self.patch_size = tuple(projection.kernel_size)
        self.in_channels = projection.in_channels
        self.channels_first = {"patch_embed"}
        self.pools_map = True
        self.special = {"absolute_pos_embed": "pos_embed"}
        self.modules["patch_embed"] = projection
        if backbone.patch_embed.norm is not None:
            self.modules["patch_norm"] = backbone.patch_embed.norm
        for stage, sequence in enumerate(backbone.stages):
            if sequence.downsample is not None:
                if sequence.downsample.norm is not None:
                    self.modules[f"merge{stage + 1}.norm"] = sequence.downsample.norm
                self.modules[f"merge{stage + 1}.reduction"] = sequence.downsample.reduction
        for i in backbone.out_indices:
            norm = getattr(backbone, f"norm{i}")
            if not isinstance(norm, nn.Identity):
                self.modules[f"norm.{i}"] = norm

    def block_modules(self, block: Block) -> dict[str, nn.Module]:
        module = block.module
        return {
            "norm1": module.norm1,
            "qkv": module.attn.w_msa.qkv,
            "proj": module.attn.w_msa.proj,
            "norm2": module.norm2,
            "fc1": module.ffn.layers[0][0],
            "act": module.ffn.layers[0][1],
            "fc2": module.ffn.layers[1],
        }

    def block_scales(self, block: Block) -> tuple[nn.Module | None, nn.Module | None]:
        scale = block.module.ffn.gamma2
        return None, None if isinstance(scale, nn.Identity) else scale

    def map_size(self, inputs: Tensor, embedded: tuple[Tensor, tuple[int, int]]) -> tuple[int, int]:
        return embedded[1]

    def merge_map(self, stage: int, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        return self.backbone.stages[stage - 1].downsample(tokens, hw)[0]

    def last_block(self, norm: str) -> Block:
        stage = int(norm.removeprefix("norm."))
        return [block for block in self.blocks if block.stage == stage][-1]

    def merge_tokens(self, stage: int, tokens: Tensor) -> Tensor:
        # mmcv's merging unfolds: the four neighbours of a channel stand next to one another.
        merging = self.backbone.stages[stage - 1].downsample
        tokens = tokens.repeat_interleave(4, dim=-1)
        return merging.reduction(tokens if merging.norm is None else merging.norm(tokens))
