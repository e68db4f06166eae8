"""torchvision's SwinTransformer, with blocks of the first and of the second version."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.core.backbones.windows.shifted import CosineWindowBlock, WindowBlock, shift_mask
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="torchvision.SwinTransformerBlock")
class SwinTransformerBlock(WindowBlock):
    """``SwinTransformerBlock``: a function reads the weights of qkv and proj; its maps are streams inside."""

    site_targets = ("torchvision.models.swin_transformer.SwinTransformerBlock",)
    site_parts = {"attn": ("{0}.ShiftedWindowAttention",), "mlp": ("torchvision.ops.misc.MLP",)}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        return {
            "norm1": block.norm1,
            "qkv": stated(block.attn.qkv),
            "proj": stated(block.attn.proj),
            "norm2": block.norm2,
            "fc1": block.mlp[0],
            "act": block.mlp[1],
            "fc2": block.mlp[3],
        }

    @property
    def site_msa(self) -> nn.Module:
        return self.attn

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_window_size(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        # A map that is no larger than the window, once padded, is not shifted.
        window, shift = self.attn.window_size, self.attn.shift_size
        return tuple(window), tuple(
            0 if size <= step else by for size, step, by in zip(extents, window, shift, strict=True)
        )

    def site_mask(
        self, padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
    ) -> Tensor | None:
        return shift_mask(padded, window, shift, device) if any(shift) else None

    def site_qkv(self, x: Tensor) -> Tensor:
        return self.peft_sites["qkv"].run(self.site_product, x)

    def site_product(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side."""
        return F.linear(x, self.attn.qkv.weight, self.attn.qkv.bias)

    def site_products(self, q: Tensor, k: Tensor) -> Tensor:
        return (q * q.shape[-1] ** -0.5).matmul(k.transpose(-2, -1))

    def site_weights(self, scores: Tensor) -> Tensor:
        return F.dropout(F.softmax(scores, dim=-1), p=self.attn.attention_dropout, training=self.attn.training)

    def site_bias(self, area: int) -> Tensor:
        return self.attn.get_relative_position_bias().squeeze(0)

    def site_out(self, y: Tensor) -> Tensor:
        proj = self.attn.proj
        y = self.peft_sites["proj"].run(lambda y: F.linear(y, proj.weight, proj.bias), y)
        return F.dropout(y, p=self.attn.dropout, training=self.attn.training)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.stochastic_depth(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.stochastic_depth(x)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[1:3]
        return self.site_forward(x.flatten(1, 2), grid).unflatten(1, grid)


@BLOCKS.register_module(name="torchvision.SwinTransformerBlockV2")
class SwinTransformerBlockV2(SwinTransformerBlock, CosineWindowBlock):
    """``SwinTransformerBlockV2``: cosine attention that takes the keys' part of the bias as zero."""

    site_targets = ("torchvision.models.swin_transformer.SwinTransformerBlockV2",)
    site_parts = {"attn": ("{0}.ShiftedWindowAttentionV2",), "mlp": ("torchvision.ops.misc.MLP",)}
    norm_behind = True

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        modules = SwinTransformerBlock.site_modules(block)
        if block.attn.qkv.bias is not None:
            modules["qkv"].void = (block.attn.qkv.out_features // 3, block.attn.qkv.out_features // 3 * 2)
        return modules

    def site_product(self, x: Tensor) -> Tensor:
        qkv = self.attn.qkv
        bias = qkv.bias
        if bias is not None:
            bias = bias.clone()
            bias[slice(*self.peft_sites["qkv"].module.void)].zero_()
        return F.linear(x, qkv.weight, bias)

    def site_products(self, q: Tensor, k: Tensor) -> Tensor:
        return CosineWindowBlock.site_products(self, q, k)


def stated(linear: nn.Linear) -> StatedLinear:
    """A linear that is not called."""
    return StatedLinear((linear, "weight"), *(() if linear.bias is None else ((linear, "bias"),)))


@HOSTS.register_module(name="torchvision.SwinTransformer")
class TorchvisionSwin(Host):
    """torchvision ``SwinTransformer``."""

    targets = ("torchvision.models.swin_transformer.SwinTransformer",)

    def describe(self) -> None:
        stem, *rest = self.backbone.features
        for stage, blocks in enumerate(rest[::2]):
            self.add_blocks(blocks, f"features.{1 + 2 * stage}", stage)
        for stage, merging in enumerate(rest[1::2], start=1):
            self.modules[f"downsample{stage}.norm"] = merging.norm
            self.modules[f"downsample{stage}.reduction"] = merging.reduction
        self.embeds(stem[0])
        self.pools_map = True
        self.flat_stream = False
        self.add_sites(patch_norm=stem[2], norm_0=self.backbone.norm)

    def downsample_map(self, stage: int, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        return self.backbone.features[2 * stage](tokens.unflatten(1, grid)).flatten(1, 2)

    def heads(self) -> list[str]:
        return ["head"]
