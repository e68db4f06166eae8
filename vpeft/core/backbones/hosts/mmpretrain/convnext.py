"""mmpretrain's ConvNeXt, V1 and V2; mmseg and mmdet take it from there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.convnext import ConvNextBlock, ConvNextHost
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmpretrain.ConvNeXtBlock")
class MMPretrainConvNextBlock(ConvNextBlock):
    """``ConvNeXtBlock``: its norm and its GRN are told how the map is laid out."""

    site_targets = ("mmpretrain.models.backbones.convnext.ConvNeXtBlock",)

    @staticmethod
    def site_pointwise(block: nn.Module) -> bool:
        return block.grn is None

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "dwconv": block.depthwise_conv,
            "norm2": block.norm,
            "fc1": block.pointwise_conv1,
            "act": block.act,
            "fc2": block.pointwise_conv2,
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[None, nn.Parameter | None]:
        return None, block.gamma

    @property
    def site_format(self) -> str:
        """How the map inside the branch is laid out, as mmpretrain calls it."""
        return "channel_first" if self.site_is_first else "channel_last"

    def site_norm2(self, x: Tensor) -> Tensor:
        x = self.depthwise_conv(x)
        return self.norm(x if self.site_is_first else x.permute(0, 2, 3, 1), data_format=self.site_format)

    def site_hidden(self, x: Tensor) -> Tensor:
        x = self.act(self.pointwise_conv1(x))
        if self.grn is not None:
            x = self.grn(x, data_format=self.site_format)
        return self.pointwise_conv2(x)

    def site_scaled(self, y: Tensor) -> Tensor:
        return y if self.gamma is None else y.mul(self.gamma.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            # Not only where x needs a gradient: over a frozen first block the modules inside need theirs.
            return checkpoint(super().forward, x, use_reentrant=False)
        return super().forward(x)


@HOSTS.register_module(name="mmpretrain.ConvNeXt")
class MMPretrainConvNext(ConvNextHost):
    """mmpretrain ``ConvNeXt``; its outputs are maps, or their normed means."""

    targets = ("mmpretrain.models.backbones.convnext.ConvNeXt",)
    first_frozen = 1

    def describe(self) -> None:
        super().describe()
        backbone = self.backbone
        stem = backbone.downsample_layers[0]
        self.add_stem(*stem, stem)
        for stage, blocks in enumerate(backbone.stages):
            between = backbone.downsample_layers[stage] if stage else ()
            self.add_stage(stage, blocks, f"stages.{stage}", between)
        stages = sorted(backbone.out_indices)
        self.outputs = [self.last_block(f"norm.{stage}").index for stage in stages]
        pooled = backbone.gap_before_final_norm
        self.pools_map = pooled and len(stages) == 1
        self.reads_map = not self.pools_map
        for stage in stages:
            name = f"norm.{stage}" if not pooled else f"pool_norm.{stage}" if stages[1:] else "pool_norm"
            self.modules[name] = getattr(backbone, f"norm{stage}")
            self.channels_first.add(name)

    def last_block(self, norm: str) -> Block:
        stage = int(norm.rsplit(".", 1)[-1])
        return [block for block in self.blocks if block.stage == stage][-1]
