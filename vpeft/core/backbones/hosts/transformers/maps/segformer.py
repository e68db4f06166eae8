"""transformers' SegFormer (MiT) and PVT v2, which differ in names."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from vpeft.core.backbones.shared.checkpointed import CheckpointedStages
from vpeft.core.backbones.shared.pyramid import PyramidBlock, PyramidHost
from vpeft.core.backbones.sites.stated_linear import StackedLinear
from vpeft.registry import BLOCKS, HOSTS


class HFPyramidLayer(PyramidBlock):
    """Norms, projections apart and MLP of both; a kind states the reduction and what follows the attention.

    Attributes:
        site_msa_name: Name of the module that holds the projections of queries, keys and values.
    """

    free_keys = True
    site_msa_name: ClassVar[str]

    @classmethod
    def site_refuses(cls, block: nn.Module) -> str | None:
        if block.attention.pruned_heads:
            return "pruned heads are not re-stated."
        if not isinstance(block.mlp.intermediate_act_fn, nn.Module):
            return "an activation that is no module is not re-stated: name it in the config (hidden_act='gelu')."
        return None

    @classmethod
    def site_heads(cls, block: nn.Module) -> int:
        return block.get_submodule(cls.site_msa_name).num_attention_heads

    @classmethod
    def site_modules(cls, block: nn.Module) -> dict[str, nn.Module | StackedLinear]:
        attn = block.get_submodule(cls.site_msa_name)
        return {
            "norm1": block.layer_norm_1,
            "qkv": StackedLinear(attn.query, attn.key, attn.value),
            "proj": cls.site_proj(block),
            "norm2": block.layer_norm_2,
            "fc1": block.mlp.dense1,
            "act": block.mlp.intermediate_act_fn,
            "fc2": block.mlp.dense2,
        }

    @staticmethod
    def site_proj(block: nn.Module) -> nn.Module:
        """The projection behind the attention."""
        return block.attention.proj

    @property
    def site_msa(self) -> nn.Module:
        """The module that holds queries, keys and values."""
        return self.get_submodule(self.site_msa_name)

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.layer_norm_1(x)

    def site_attention(self, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        """The attention branch; ``kept`` takes the attention weights."""
        kv = self.site_beside(x, self.site_reduce) if self.site_reduces else x
        shape = (len(x), -1, self.site_heads(self), self.site_msa.attention_head_size)
        q, k, v = (t.view(shape).transpose(1, 2) for t in self.site_linears("qkv", x, kv, kv))
        q, k, v, _ = self.site_core(q, k, v, x)
        weights = self.site_drop(self.site_scores(q, k).softmax(dim=-1))
        if kept is not None:
            kept.append(weights)
        return self.site_out(torch.matmul(weights, v), x)

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.site_msa.attention_head_size)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.layer_norm_2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        mlp = self.mlp
        hidden = mlp.intermediate_act_fn(self.site_beside(self.site_rectify(mlp.dense1(x)), self.site_convolve))
        return mlp.dropout(mlp.dense2(mlp.dropout(hidden)))

    def site_rectify(self, x: Tensor) -> Tensor:
        """What stands between the first linear and the convolution."""
        return x

    def site_convolve(self, tokens: Tensor) -> Tensor:
        """The convolution inside the MLP, on the tokens of the map."""
        return self.mlp.dwconv(tokens, *self.peft_flow.hw)

    def forward(
        self, hidden_states: Tensor, height: int, width: int, output_attentions: bool = False
    ) -> tuple[Tensor, ...]:
        kept: list[Tensor] = []
        given = {"kept": kept} if output_attentions else {}
        return self.site_forward(hidden_states, (height, width), **given), *kept


@BLOCKS.register_module(name="transformers.SegformerLayer")
class HFSegformerLayer(HFPyramidLayer):
    """``SegformerLayer``."""

    site_targets = ("transformers.models.segformer.modeling_segformer.SegformerLayer",)
    site_parts = {
        "attention": ("{0}.SegformerAttention",),
        "attention.self": ("{0}.SegformerEfficientSelfAttention",),
        "attention.output": ("{0}.SegformerSelfOutput",),
        "mlp": ("{0}.SegformerMixFFN",),
        "mlp.dwconv": ("{0}.SegformerDWConv",),
    }
    site_msa_name = "attention.self"

    @staticmethod
    def site_proj(block: nn.Module) -> nn.Module:
        return block.attention.output.dense

    @property
    def site_reduces(self) -> bool:
        """Whether keys and values are of a reduced map."""
        return self.site_msa.sr_ratio > 1

    def site_reduce(self, tokens: Tensor) -> Tensor:
        """Tokens of the map to those of the reduced map."""
        spatial = self.site_msa.sr(self.site_map(tokens))
        return self.site_msa.layer_norm(spatial.reshape(*spatial.shape[:2], -1).permute(0, 2, 1))

    def site_drop(self, weights: Tensor) -> Tensor:
        """Dropout of the attention weights."""
        return self.site_msa.dropout(weights)

    def site_out(self, y: Tensor, x: Tensor) -> Tensor:
        """Heads joined and projected."""
        return self.attention.output(y.permute(0, 2, 1, 3).contiguous().flatten(2), x)


@BLOCKS.register_module(name="transformers.PvtV2BlockLayer")
class HFPvtV2Layer(HFPyramidLayer):
    """``PvtV2BlockLayer``, with strided or linear attention."""

    site_targets = ("transformers.models.pvt_v2.modeling_pvt_v2.PvtV2BlockLayer",)
    site_parts = {
        "attention": ("{0}.PvtV2SelfAttention",),
        "mlp": ("{0}.PvtV2ConvFeedForwardNetwork",),
        "mlp.dwconv": ("{0}.PvtV2DepthWiseConv",),
    }
    site_msa_name = "attention"

    @property
    def site_reduces(self) -> bool:
        """Whether keys and values are of a reduced map."""
        return self.attention.linear_attention or self.attention.spatial_reduction_ratio > 1

    def site_reduce(self, tokens: Tensor) -> Tensor:
        """Tokens of the map to those of the reduced map."""
        attn, spatial = self.attention, self.site_map(tokens)
        spatial = attn.spatial_reduction(attn.pool(spatial) if attn.linear_attention else spatial)
        reduced = attn.layer_norm(spatial.reshape(*spatial.shape[:2], -1).permute(0, 2, 1))
        return attn.act(reduced) if attn.linear_attention else reduced

    def site_drop(self, weights: Tensor) -> Tensor:
        """Dropout of the attention weights."""
        return self.attention.attn_drop(weights)

    def site_out(self, y: Tensor, x: Tensor) -> Tensor:
        """Heads joined and projected."""
        return self.attention.proj_drop(self.attention.proj(y.transpose(1, 2).reshape(x.shape)))

    def site_rectify(self, x: Tensor) -> Tensor:
        return self.mlp.relu(x)


@HOSTS.register_module(name="transformers.SegformerModel")
class HFSegformer(PyramidHost):
    """``SegformerModel``; a decode head reads the maps of all its stages."""

    targets = ("transformers.models.segformer.modeling_segformer.SegformerModel",)

    def describe(self) -> None:
        encoder = self.backbone.encoder
        stages = zip(encoder.block, encoder.patch_embeddings, encoder.layer_norm, strict=True)
        for stage, (blocks, embed, norm) in enumerate(stages):
            self.add_stage(blocks, f"encoder.block.{stage}", embed.proj, embed.layer_norm, norm)
        self.outputs, self.reads_map = [self.stage_end(stage).index for stage in range(len(encoder.block))], True


@HOSTS.register_module(name="transformers.PvtV2Model")
class HFPvtV2(PyramidHost):
    """``PvtV2Model`` and ``PvtV2Backbone``; a head reads maps of its stages."""

    targets = (
        "transformers.models.pvt_v2.modeling_pvt_v2.PvtV2Model",
        "transformers.models.pvt_v2.modeling_pvt_v2.PvtV2Backbone",
    )
    backbone_mixin = CheckpointedStages

    def describe(self) -> None:
        layers = self.backbone.encoder.layers
        for stage, layer in enumerate(layers):
            embed = layer.patch_embedding
            self.add_stage(
                layer.blocks, f"encoder.layers.{stage}.blocks", embed.proj, embed.layer_norm, layer.layer_norm
            )
        self.outputs, self.reads_map = [self.stage_end(stage).index for stage in range(len(layers))], True
