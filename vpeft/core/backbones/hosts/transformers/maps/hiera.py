"""Hiera of transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.block import read_block
from vpeft.core.backbones.shared.checkpointed import CheckpointedStages
from vpeft.core.backbones.windows.units import MaskUnitBlock, MaskUnitHost
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="transformers.HieraLayer")
class HFHieraLayer(MaskUnitBlock):
    """``HieraLayer``; asked for them, it gives its attention weights too."""

    site_targets = ("transformers.models.hiera.modeling_hiera.HieraLayer",)
    site_parts = {"attn": ("{0}.HieraMaskUnitAttention",), "mlp": ("{0}.HieraMlp",)}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "norm1": block.layernorm_before,
            "qkv": block.attn.qkv,
            "proj": block.attn.proj,
            "norm2": block.layernorm_after,
            "fc1": block.mlp.fc1,
            "act": block.mlp.activation_fn,
            "fc2": block.mlp.fc2,
            **({"skip": block.proj} if hasattr(block, "proj") else {}),
        }

    @property
    def site_stride(self) -> int:
        return self.attn.query_stride

    @property
    def site_widens(self) -> bool:
        return self.hidden_size != self.hidden_size_output

    def site_pool(self, x: Tensor, dim: int) -> Tensor:
        return x.max(dim=dim).values

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.layernorm_before(x)

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        return self.site_attend(x, **given)

    def site_mix(self, q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor], **given: Any) -> Tensor:
        weights = self.site_scores(q, k).softmax(dim=-1)
        kept.append(weights)
        return weights @ v

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.layernorm_after(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def forward(
        self, hidden_states: Tensor, head_mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if head_mask is not None:
            raise UserError("head_mask is not re-stated by this host: leave it out.")
        kept: list[Tensor] = []
        x = self.site_forward(hidden_states, kept=kept)
        return x, kept[-1] if output_attentions else None


@HOSTS.register_module(name="transformers.HieraModel")
class HFHiera(MaskUnitHost):
    """``HieraModel``; the norm of its pooler reads pooled features. In MAE's mode some units are hidden."""

    targets = ("transformers.models.hiera.modeling_hiera.HieraModel",)
    refused = {
        "transformers.models.hiera.modeling_hiera.HieraBackbone": "it hands its blocks the map row by row, though they "
        "read tokens sorted by mask units (HieraModel sorts them), so that its maps are wrong with any published "
        "weights: take HieraModel, whose reshaped_hidden_states are the maps, or vpeft.Backbone with of='hf/hiera'"
    }
    backbone_mixin = CheckpointedStages

    def describe(self) -> None:
        backbone = self.backbone
        for stage, group in enumerate(backbone.encoder.stages):
            for number, module in enumerate(group.layers):
                where = f"encoder.stages.{stage}.layers.{number}"
                self.blocks.append(read_block(module, len(self.blocks), stage, where))
        self.embeds(backbone.embeddings.patch_embeddings.projection)
        self.steps = tuple(tuple(step) for step in backbone.unroll_schedule)
        self.positions("embeddings.position_embeddings", 0)
        self.pools_map = backbone.pooler is not None
        self.add_sites(pool_norm=getattr(backbone.pooler, "layernorm", None))
