"""mmaction2's TimeSformer: attention over time, then in space."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.block import full_name
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.shared.divided import DividedBlock
from vpeft.core.backbones.shared.multihead import MultiheadBlock
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS

_TIME, _SPACE, _MLP = (
    f"mmaction.models.common.transformer.{name}"
    for name in ("DividedTemporalAttentionWithNorm", "DividedSpatialAttentionWithNorm", "FFNWithNorm")
)


@BLOCKS.register_module(name="mmaction.BaseTransformerLayer")
class TimeSformerBlock(DividedBlock, MultiheadBlock):
    """mmcv's ``BaseTransformerLayer`` of the two attentions and the MLP of mmaction2, each with a norm of its own."""

    site_targets = ("mmcv.cnn.bricks.transformer.BaseTransformerLayer",)
    site_parts = {
        "attentions.0": (_TIME,),
        "attentions.1": (_SPACE,),
        "attentions.1.attn": ("torch.nn.modules.activation.MultiheadAttention",),
        "ffns.0": (_MLP,),
    }
    site_multihead = "attentions.1.attn"
    site_weighs = True

    @staticmethod
    def site_reads(block: nn.Module) -> bool:
        return full_name(type(block.attentions[0])) == _TIME

    @classmethod
    def site_refuses(cls, block: nn.Module) -> str | None:
        if block.operation_order != ("self_attn", "self_attn", "ffn"):
            return f"operation_order={block.operation_order} is not re-stated: it takes self_attn, self_attn, ffn."
        ffn = block.ffns[0]
        if len(ffn.layers) != 3 or not ffn.add_identity or not isinstance(ffn.gamma2, nn.Identity):
            return "an FFN with num_fcs, add_identity or layer_scale_init_value of its own is not re-stated."
        if block.attentions[1].attn.batch_first or block.attentions[0].attn.batch_first:
            return "attention with batch_first=True attends over the batch here, and is not re-stated."
        return super().site_refuses(block)

    @classmethod
    def site_modules(cls, block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        ffn = block.ffns[0]
        return {
            "norm1": block.attentions[1].norm,
            **cls.site_projections(block),
            "norm2": ffn.norm,
            "fc1": ffn.layers[0][0],
            "act": ffn.layers[0][1],
            "fc2": ffn.layers[1],
        }

    @property
    def site_frames(self) -> int:
        return self.attentions[1].num_frames

    def site_time(self, x: Tensor) -> Tensor:
        own = self.attentions[0]
        x = own.norm(x).permute(1, 0, 2)
        y = own.attn(x, x, x)[0].permute(1, 0, 2).contiguous()
        return own.temporal_fc(own.dropout_layer(own.proj_drop(y)))

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.attentions[1].norm(self.site_apart(x))

    def site_attention(self, x: Tensor) -> Tensor:
        return self.attentions[1].proj_drop(self.site_torch(x).contiguous())

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.attentions[1].dropout_layer(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.ffns[0].norm(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ffns[0].layers(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.ffns[0].dropout_layer(x)

    def forward(self, query: Tensor, *args: Any, **given: Any) -> Tensor:
        named = [name for name, value in given.items() if value is not None]
        if named or any(value is not None for value in args):
            raise UserError(f"{', '.join(named) or 'other keys and values'}: not re-stated by this host: leave it out.")
        return self.site_forward(query)


@HOSTS.register_module(name="mmaction.TimeSformer")
class TimeSformer(Host):
    """mmaction2 ``TimeSformer`` with divided attention; it gives its class token alone."""

    targets = ("mmaction.models.backbones.timesformer.TimeSformer",)

    def describe(self) -> None:
        backbone = self.backbone
        if backbone.attention_type != "divided_space_time":
            raise UserError(
                f"attention_type={backbone.attention_type!r} is not stated by this host: it takes 'divided_space_time'."
            )
        self.add_blocks(backbone.transformer_layers.layers, "transformer_layers.layers")
        self.embeds(backbone.patch_embed.projection, backbone.patch_embed)
        self.prefix, self.frames_in = 1, "tokens"
        self.special = {"cls_token": "cls_token", "time_embed": "pos_embed"}
        for name, _ in backbone.named_parameters():
            if ".attentions.0.attn.in_proj_" in name:
                self.special[name] = name.rpartition("_")[2]
        self.positions("pos_embed", self.prefix)
        self.add_sites(norm_0=backbone.norm)

    def map_size(self, inputs: Tensor, embedded: Any) -> tuple[int, ...]:
        size = (size // step for size, step in zip(inputs.shape[-2:], self.patch_size, strict=True))
        return (inputs.shape[2], *size)
