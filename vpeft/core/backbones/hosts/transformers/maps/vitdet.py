"""transformers' ViTDet."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.shared.checkpointed import Checkpointed
from vpeft.core.backbones.windows.unshifted import MapWindowBlock, rows_and_columns
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="transformers.VitDetLayer")
class HFVitDetLayer(MapWindowBlock):
    """``VitDetLayer`` without a convolutional residual block; its maps ``(B, C, H, W)`` are streams inside."""

    site_targets = ("transformers.models.vitdet.modeling_vitdet.VitDetLayer",)
    site_parts = {"attention": ("{0}.VitDetAttention",), "mlp": ("{0}.VitDetMlp",)}

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if block.use_residual_block:
            return "a residual block of convolutions (residual_block_indices) is not re-stated."
        return None

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attention.num_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "norm1": block.norm1,
            "qkv": block.attention.qkv,
            "proj": block.attention.proj,
            "norm2": block.norm2,
            "fc1": block.mlp.fc1,
            "act": block.mlp.act,
            "fc2": block.mlp.fc2,
        }

    @property
    def site_msa(self) -> nn.Module:
        return self.attention

    def site_window(self, x: Tensor, mask: Tensor | None, area: int, kept: list[Tensor] | None = None) -> Tensor:
        """As :meth:`WindowBlock.site_window`; ``kept`` takes the attention weights."""
        y, weights = self.site_heads_of(x)
        if kept is not None:
            kept.append(weights)
        return self.attention.proj(y.transpose(1, 2).flatten(2))

    def site_positions(self, q: Tensor) -> Sequence[Tensor]:
        return self.site_windowed(q) if self.attention.use_relative_position_embeddings else ()

    def site_relative(self, q: Tensor, size: tuple[int, ...]) -> Sequence[Tensor]:
        from transformers.models.vitdet.modeling_vitdet import get_rel_pos

        plain = inspect.unwrap(get_rel_pos)  # its wrapper would script it in a trace, where sizes are no tensors here
        return rows_and_columns(q, self.attention.rel_pos_h, self.attention.rel_pos_w, size, plain)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def forward(
        self, hidden_states: Tensor, head_mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, ...]:
        kept: list[Tensor] = []
        grid = hidden_states.shape[2:]
        given = {"kept": kept} if output_attentions else {}
        stream = hidden_states.permute(0, 2, 3, 1).flatten(1, 2)
        y = self.site_forward(stream, grid, **given).unflatten(1, grid)
        return y.permute(0, 3, 1, 2), *kept


@HOSTS.register_module(name="transformers.VitDetModel")
class HFVitDet(Host):
    """``VitDetModel`` and ``VitDetBackbone``; their outputs are maps without a norm."""

    targets = (
        "transformers.models.vitdet.modeling_vitdet.VitDetModel",
        "transformers.models.vitdet.modeling_vitdet.VitDetBackbone",
    )
    backbone_mixin = Checkpointed

    def describe(self) -> None:
        backbone = self.backbone
        self.add_blocks(backbone.encoder.layer, "encoder.layer")
        self.embeds(backbone.embeddings.projection)
        if backbone.embeddings.position_embeddings is not None:
            self.positions("embeddings.position_embeddings", 1)
        self.reads_map = True
        self.flat_stream = False
        if hasattr(backbone, "out_features"):
            numbers = [backbone.stage_names.index(name) - 1 for name in backbone.out_features]
            if max(numbers) + 1 < len(self.blocks):
                raise UserError(
                    f"out_features={list(backbone.out_features)} leaves out the last block, which would be adapted for "
                    f"nothing: add {backbone.stage_names[-1]!r}, or build the backbone without it."
                )
            self.outputs = sorted(number for number in numbers if number >= 0)
