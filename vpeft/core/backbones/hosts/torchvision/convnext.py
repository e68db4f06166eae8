"""torchvision's ConvNeXt."""

from __future__ import annotations

from torch import Tensor, nn

from vpeft.core.backbones.convnext import ConvNextBlock, ConvNextHost
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="torchvision.CNBlock")
class TorchvisionConvNextBlock(ConvNextBlock):
    """``CNBlock``: one sequence from the depthwise convolution to the last linear."""

    site_targets = ("torchvision.models.convnext.CNBlock",)

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return dict(
            zip(("dwconv", "norm2", "fc1", "act", "fc2"), (block.block[i] for i in (0, 2, 3, 4, 5)), strict=True)
        )

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[None, nn.Parameter]:
        return None, block.layer_scale

    def site_scaled(self, y: Tensor) -> Tensor:
        return self.layer_scale * y

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.stochastic_depth(x)

    def site_add(self, x: Tensor, y: Tensor) -> Tensor:
        return self.site_first(y) + x


@HOSTS.register_module(name="torchvision.ConvNeXt")
class TorchvisionConvNext(ConvNextHost):
    """torchvision ``ConvNeXt``."""

    targets = ("torchvision.models.convnext.ConvNeXt",)

    def describe(self) -> None:
        super().describe()
        stem, *rest = self.backbone.features
        self.add_stem(stem[0], stem[1], stem)
        for number, blocks in enumerate(rest[::2]):
            self.add_stage(number, blocks, f"features.{2 * number + 1}", rest[2 * number - 1] if number else ())
        self.add_maps(pool_norm=self.backbone.classifier[0])

    def heads(self) -> list[str]:
        return ["classifier.2"]
