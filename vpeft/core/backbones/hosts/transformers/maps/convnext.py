"""ConvNeXt of transformers: V1, V2, and that of DINOv3."""

from __future__ import annotations

from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.convnext import ConvNextBlock, ConvNextHost
from vpeft.registry import BLOCKS, HOSTS

_V1, _V2 = "transformers.models.convnext.modeling_convnext.", "transformers.models.convnextv2.modeling_convnextv2."
_DINOV3 = "transformers.models.dinov3_convnext.modeling_dinov3_convnext."


@BLOCKS.register_module(name="transformers.ConvNextLayer")
class ConvNextLayer(ConvNextBlock):
    """``ConvNextLayer``, and ``ConvNextV2Layer``, which norms its hidden layer by the whole map (GRN)."""

    site_targets = (f"{_V1}ConvNextLayer", f"{_V2}ConvNextV2Layer")

    @staticmethod
    def site_pointwise(block: nn.Module) -> bool:
        return not hasattr(block, "grn")

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "dwconv": block.dwconv,
            "norm2": block.layernorm,
            "fc1": block.pwconv1,
            "act": block.act,
            "fc2": block.pwconv2,
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[None, nn.Parameter | None]:
        return None, getattr(block, "layer_scale_parameter", None)

    def site_mlp(self, x: Tensor) -> Tensor:
        x = self.act(self.pwconv1(x))
        if hasattr(self, "grn"):
            x = self.grn(x)
        x = self.pwconv2(x)
        scale = getattr(self, "layer_scale_parameter", None)
        return x if scale is None else scale * x


@BLOCKS.register_module(name="transformers.DINOv3ConvNextLayer")
class DINOv3ConvNextLayer(ConvNextBlock):
    """``DINOv3ConvNextLayer``."""

    site_targets = (f"{_DINOV3}DINOv3ConvNextLayer",)

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "dwconv": block.depthwise_conv,
            "norm2": block.layer_norm,
            "fc1": block.pointwise_conv1,
            "act": block.activation_fn,
            "fc2": block.pointwise_conv2,
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[None, nn.Parameter]:
        return None, block.gamma

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.site_hidden(x) * self.gamma


@HOSTS.register_module(name="transformers.ConvNextModel")
class HFConvNext(ConvNextHost):
    """transformers' ``ConvNextModel`` and ``ConvNextV2Model``, and the backbones that give maps to dense heads."""

    targets = (
        f"{_V1}ConvNextModel",
        f"{_V1}ConvNextBackbone",
        f"{_V2}ConvNextV2Model",
        f"{_V2}ConvNextV2Backbone",
    )

    def describe(self) -> None:
        super().describe()
        backbone = self.backbone
        embeddings = backbone.embeddings
        self.add_stem(embeddings.patch_embeddings, embeddings.layernorm, embeddings)
        for number, stage in enumerate(backbone.encoder.stages):
            self.add_stage(number, stage.layers, f"encoder.stages.{number}.layers", stage.downsampling_layer)
        if not hasattr(backbone, "hidden_states_norms"):
            self.add_sites(pool_norm=backbone.layernorm)
            return
        self.pools_map, self.reads_map = False, True
        stages = {backbone.stage_names.index(name) - 1: name for name in backbone.out_features}
        for stage, name in stages.items():
            norm = f"norm_{stage}" if stage >= 0 else "stem_norm"
            self.add_maps(**{norm: backbone.hidden_states_norms[name]})
        self.outputs = [self.last_block(f"norm.{stage}").index for stage in sorted(stages) if stage >= 0]

    def last_block(self, norm: str) -> Block:
        stage = int(norm.removeprefix("norm."))
        return [block for block in self.blocks if block.stage == stage][-1]


@HOSTS.register_module(name="transformers.DINOv3ConvNextModel")
class HFDINOv3ConvNext(ConvNextHost):
    """transformers' ``DINOv3ConvNextModel``; its last norm reads the map and its mean before it."""

    targets = (f"{_DINOV3}DINOv3ConvNextModel",)

    def describe(self) -> None:
        super().describe()
        first, *rest = self.backbone.stages
        self.add_stem(*first.downsample_layers)
        self.add_stage(0, first.layers, "stages.0.layers")
        for number, stage in enumerate(rest, start=1):
            self.add_stage(number, stage.layers, f"stages.{number}.layers", stage.downsample_layers)
        self.add_sites(pool_norm=self.backbone.layer_norm)
