"""mmaction2's SwinTransformer3D (Video Swin)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.windows.shifted import WindowBlock
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmaction.SwinTransformerBlock3D")
class VideoSwinBlock(WindowBlock):
    """``SwinTransformerBlock3D``: windows in time and space; its maps ``(B, T, H, W, C)`` are streams inside."""

    site_targets = ("mmaction.models.backbones.swin.SwinTransformerBlock3D",)
    site_parts = {"attn": ("{0}.WindowAttention3D",), "mlp": ("{0}.Mlp",)}

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.num_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "norm1": block.norm1,
            "qkv": block.attn.qkv,
            "proj": block.attn.proj,
            "norm2": block.norm2,
            "fc1": block.mlp.fc1,
            "act": block.mlp.act,
            "fc2": block.mlp.fc2,
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    @property
    def site_msa(self) -> nn.Module:
        return self.attn

    def site_window_size(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        from mmaction.models.backbones.swin import get_window_size

        return get_window_size(extents, self.window_size, self.shift_size)

    def site_mask(
        self, padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
    ) -> Tensor | None:
        from mmaction.models.backbones.swin import compute_mask

        return compute_mask(*padded, window, shift, device) if any(shift) else None

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def forward(self, x: Tensor, mask_matrix: Tensor) -> Tensor:
        extents = tuple(x.shape[1:-1])
        tokens = x.flatten(1, 3)
        if self.with_cp and torch.is_grad_enabled():
            tokens = checkpoint(self.site_forward, tokens, extents, use_reentrant=False)
        else:
            tokens = self.site_forward(tokens, extents)
        return tokens.view(x.shape)


@HOSTS.register_module(name="mmaction.SwinTransformer3D")
class VideoSwin(Host):
    """mmaction2 ``SwinTransformer3D``; its merging halves height and width and leaves the frames."""

    targets = ("mmaction.models.backbones.swin.SwinTransformer3D",)

    def describe(self) -> None:
        backbone = self.backbone
        for stage, layer in enumerate(backbone.layers):
            self.add_blocks(layer.blocks, f"layers.{stage}.blocks", stage)
        if backbone.out_after_downsample:
            raise UserError("outputs behind the merging (out_after_downsample=True) are not stated by this host.")
        self.embeds(backbone.patch_embed.proj, backbone.patch_embed)
        self.flat_stream = False
        self.outputs = [self.last_block(f"norm.{i}").index for i in sorted(backbone.out_indices)]
        self.pools_map = len(self.outputs) == 1
        self.add_sites(patch_norm=backbone.patch_embed.norm)
        for stage, layer in enumerate(backbone.layers):
            if layer.downsample is not None:
                self.modules[f"downsample{stage + 1}.norm"] = layer.downsample.norm
                self.modules[f"downsample{stage + 1}.reduction"] = layer.downsample.reduction
        for i in backbone.out_indices:
            norm = getattr(backbone, f"norm{i}")
            (self.identities if isinstance(norm, nn.Identity) else self.modules)[f"norm.{i}"] = norm

    def map_size(self, inputs: Tensor, embedded: Tensor) -> tuple[int, ...]:
        return tuple(embedded.shape[2:])

    def downsample_map(self, stage: int, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        return self.backbone.layers[stage - 1].downsample(tokens.unflatten(1, grid)).flatten(1, 3)

    def last_block(self, norm: str) -> Block:
        stage = int(norm.removeprefix("norm."))
        return [block for block in self.blocks if block.stage == stage][-1]
