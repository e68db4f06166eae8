"""mmpretrain's ViTSAM."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.windows.unshifted import MapWindowBlock, frozen_neck, rows_and_columns
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmpretrain.SAMEncoderLayer")
class MMSAMBlock(MapWindowBlock):
    """``TransformerEncoderLayer`` of SAM; DropPath is of the MLP alone."""

    site_targets = ("mmpretrain.models.backbones.vit_sam.TransformerEncoderLayer",)
    site_parts = {"attn": ("{0}.Attention",), "ffn": ("mmcv.cnn.bricks.transformer.FFN",)}

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if block.ffn.num_fcs != 2:
            return f"an MLP of other than two linears (num_fcs={block.ffn.num_fcs}) is not re-stated."
        return None

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "norm1": block.ln1,
            "qkv": block.attn.qkv,
            "proj": block.attn.proj,
            "norm2": block.ln2,
            "fc1": block.ffn.layers[0][0],
            "act": block.ffn.layers[0][1],
            "fc2": block.ffn.layers[1],
        }

    def site_out(self, y: Tensor) -> Tensor:
        return self.attn.proj(y)

    def site_relative(self, q: Tensor, size: tuple[int, ...]) -> Sequence[Tensor]:
        from mmpretrain.models.backbones.vit_sam import get_rel_pos

        return rows_and_columns(q, self.attn.rel_pos_h, self.attn.rel_pos_w, size, get_rel_pos)

    def site_drop1(self, x: Tensor) -> Tensor:
        return x

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ffn.layers(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.ffn.dropout_layer(x)


@HOSTS.register_module(name="mmpretrain.ViTSAM")
class MMSAM(Host):
    """mmpretrain ``ViTSAM``; its channel reduction stays as it is."""

    targets = ("mmpretrain.models.backbones.vit_sam.ViTSAM",)

    def describe(self) -> None:
        backbone = self.backbone
        self.add_blocks(backbone.layers, "layers")
        self.embeds(backbone.patch_embed.projection, backbone.patch_embed)
        self.special = frozen_neck(backbone, "channel_reduction")
        if backbone.use_abs_pos:
            self.positions("pos_embed", 0)
        self.add_sites(patch_norm=backbone.patch_embed.norm)
        self.outputs = sorted(backbone.out_indices)
        if self.outputs[-1] + 1 < len(self.blocks):
            raise UserError(
                f"out_indices={list(backbone.out_indices)} leaves out the last layer, which would be adapted for "
                f"nothing: add {len(self.blocks) - 1}, or build the backbone with fewer layers."
            )
        self.reads_map = backbone.out_type != "avg_featmap"
        self.flat_stream = False

    def map_size(self, inputs: Tensor, embedded: tuple[Tensor, tuple[int, int]]) -> tuple[int, int]:
        return embedded[1]
