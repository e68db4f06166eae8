"""timm's ConvNeXt, V1 and V2."""

from __future__ import annotations

from torch import Tensor, nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.convnext import ConvNextBlock, ConvNextHost
from vpeft.core.backbones.host import Host
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.ConvNeXtBlock")
class TimmConvNextBlock(ConvNextBlock):
    """``ConvNeXtBlock``; that of V2 norms its hidden layer by the whole map (GRN)."""

    site_targets = ("timm.models.convnext.ConvNeXtBlock",)
    site_parts = {
        "mlp": ("timm.layers.mlp.Mlp", "timm.layers.mlp.GlobalResponseNormMlp"),
        "shortcut": ("torch.nn.modules.linear.Identity",),
    }

    @staticmethod
    def site_pointwise(block: nn.Module) -> bool:
        return not hasattr(block.mlp, "grn")

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        mlp = block.mlp
        return {"dwconv": block.conv_dw, "norm2": block.norm, "fc1": mlp.fc1, "act": mlp.act, "fc2": mlp.fc2}

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[None, nn.Parameter | None]:
        return None, block.gamma

    def site_hidden(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def site_scaled(self, y: Tensor) -> Tensor:
        return y if self.gamma is None else y.mul(self.gamma.reshape(1, -1, 1, 1))

    def site_add(self, x: Tensor, y: Tensor) -> Tensor:
        return self.site_first(y) + x


@HOSTS.register_module(name="timm.ConvNeXt")
class TimmConvNext(ConvNextHost):
    """timm ``ConvNeXt``."""

    targets = ("timm.models.convnext.ConvNeXt",)

    def describe(self) -> None:
        super().describe()
        backbone = self.backbone
        *stem, norm = backbone.stem
        self.add_stem(stem[-1], norm, backbone.stem)
        strides = [module.stride[0] for module in stem if isinstance(module, nn.Conv2d)]
        self.patch_size, self.in_channels = (strides[0] * (strides[1] if strides[1:] else 1),) * 2, backbone.in_chans
        for number, stage in enumerate(backbone.stages):
            require_plain(stage, "timm.models.convnext.ConvNeXtStage", f"stages.{number}")
            between = () if isinstance(stage.downsample, nn.Identity) else stage.downsample
            self.add_stage(number, stage.blocks, f"stages.{number}.blocks", between)
        add_output_norm(self, backbone.norm_pre, backbone.head)

    def heads(self) -> list[str]:
        return head_parts(self.backbone.head)


def add_output_norm(host: Host, norm: nn.Module, head: nn.Module) -> None:
    """State the norm of the last map ``(B, C, H, W)``; where there is none, that of pooled features in the head."""
    host.channels_first |= {"norm.0", "pool_norm"}
    if isinstance(norm, nn.Identity):
        host.identities["norm.0"] = norm
        host.add_sites(pool_norm=getattr(head, "norm", None))
    else:
        host.add_sites(norm_0=norm)


def head_parts(head: nn.Module) -> list[str]:
    """Names of what is trained of a head that timm's backbones hold: its hidden layer and its classifier."""
    return [f"head.{name}" for name in ("pre_logits", "fc") if list(getattr(head, name, nn.Identity()).parameters())]
