"""mmpretrain's SwinTransformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.windows.shifted import WindowBlock
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmpretrain.SwinBlock")
class SwinBlock(WindowBlock):
    """``SwinBlock`` with ``ShiftWindowMSA`` and ``WindowMSA``."""

    site_targets = ("mmpretrain.models.backbones.swin_transformer.SwinBlock",)
    site_parts = {
        "attn": ("mmpretrain.models.utils.attention.ShiftWindowMSA",),
        "attn.w_msa": ("mmpretrain.models.utils.attention.WindowMSA",),
        "ffn": ("mmcv.cnn.bricks.transformer.FFN",),
    }

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attn.w_msa.num_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "norm1": block.norm1,
            "qkv": block.attn.w_msa.qkv,
            "proj": block.attn.w_msa.proj,
            "norm2": block.norm2,
            "fc1": block.ffn.layers[0][0],
            "act": block.ffn.layers[0][1],
            "fc2": block.ffn.layers[1],
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
        scale = getattr(block.ffn, "gamma2", None)
        return None, None if isinstance(scale, nn.Identity) else scale

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    @property
    def site_msa(self) -> nn.Module:
        return self.attn.w_msa

    def site_window_size(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        msa = self.attn
        size, shift = msa.window_size, msa.shift_size
        if min(extents) == size:
            shift = shift if msa.pad_small_map else 0
        elif min(extents) < size and not msa.pad_small_map:
            raise UserError(
                f"the token map {extents[0]}x{extents[1]} is smaller than the window {size}: set pad_small_map=True or "
                "window_size lower in the backbone's config."
            )
        return (size, size), (shift, shift)

    def site_mask(
        self, padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
    ) -> Tensor | None:
        return self.attn.get_attn_mask(padded, window_size=window[0], shift_size=shift[0], device=device)

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

    targets = ("mmpretrain.models.backbones.swin_transformer.SwinTransformer",)

    def describe(self) -> None:
        backbone = self.backbone
        for stage, sequence in enumerate(backbone.stages):
            self.add_blocks(sequence.blocks, f"stages.{stage}.blocks", stage)
            if stage and (merging := self.merging(stage)) is not None:
                if merging.norm is not None:
                    self.modules[f"downsample{stage}.norm"] = merging.norm
                self.modules[f"downsample{stage}.reduction"] = merging.reduction
        self.embeds(backbone.patch_embed.projection, backbone.patch_embed)
        self.outputs = [self.last_block(f"norm.{i}").index for i in sorted(backbone.out_indices)]
        self.pools_map = len(self.outputs) == 1
        self.reads_map = not self.pools_map
        if getattr(backbone, "use_abs_pos_embed", False):
            self.positions("absolute_pos_embed", 0)
        self.add_sites(patch_norm=backbone.patch_embed.norm)
        for i in backbone.out_indices:
            norm = getattr(backbone, f"norm{i}")
            if not isinstance(norm, nn.Identity):
                self.modules[f"norm.{i}"] = norm

    def map_size(self, inputs: Tensor, embedded: tuple[Tensor, tuple[int, int]]) -> tuple[int, int]:
        return embedded[1]

    def downsample_map(self, stage: int, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        return self.merging(stage)(tokens, grid)[0]

    def merging(self, stage: int) -> nn.Module:
        """The patch merging that leads to a stage: the end of the sequence before it."""
        return self.backbone.stages[stage - 1].downsample

    def last_block(self, norm: str) -> Block:
        stage = int(norm.removeprefix("norm."))
        return [block for block in self.blocks if block.stage == stage][-1]

    def downsample_tokens(self, stage: int, tokens: Tensor) -> Tensor:
        # mmcv's merging unfolds: the four neighbours of a channel stand next to one another.
        return self.merge_patches(stage, tokens.repeat_interleave(4, dim=-1))
