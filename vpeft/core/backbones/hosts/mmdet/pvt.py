"""mmdet's PyramidVisionTransformer and PyramidVisionTransformerV2 (PVT)."""

from __future__ import annotations

from torch import Tensor, nn

from vpeft.core.backbones.hosts.mmseg.mit import MMSegMiT, MMSegMiTBlock
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmdet.PVTEncoderLayer")
class MMDetPVTBlock(MMSegMiTBlock):
    """``PVTEncoderLayer``, which is MiT's; the MLP of V1 has no convolution over neighbours."""

    site_targets = ("mmdet.models.backbones.pvt.PVTEncoderLayer",)
    site_parts = {
        "attn": ("{0}.SpatialReductionAttention",),
        "attn.attn": ("torch.nn.modules.activation.MultiheadAttention",),
        "ffn": ("{0}.MixFFN",),
    }

    @classmethod
    def site_pointwise(cls, block: nn.Module) -> bool:
        return len(block.ffn.layers) == 5

    def site_map(self, tokens: Tensor) -> Tensor:
        return super().site_map(tokens).contiguous()

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return self.site_forward(x, hw_shape)


@HOSTS.register_module(name="mmdet.PyramidVisionTransformer")
class MMDetPVT(MMSegMiT):
    """mmdet ``PyramidVisionTransformer``, with a table of positions in every stage and no norm behind it, and V2."""

    targets = (
        "mmdet.models.backbones.pvt.PyramidVisionTransformer",
        "mmdet.models.backbones.pvt.PyramidVisionTransformerV2",
    )

    def describe(self) -> None:
        super().describe()
        tables = [
            f"layers.{stage}.1.0.pos_embed" for stage, layer in enumerate(self.backbone.layers) if has_table(layer)
        ]
        self.special = dict.fromkeys(tables, "pos_embed")
        self.adds_between = len(tables) > 1

    def stage_blocks(self, layer: nn.ModuleList) -> list[nn.Module]:
        return [*layer[1]][has_table(layer) :]


def has_table(layer: nn.ModuleList) -> bool:
    """Whether a table of positions stands before the blocks of a stage, among them."""
    return hasattr(layer[1][0], "pos_embed")
