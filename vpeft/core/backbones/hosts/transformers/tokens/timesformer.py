"""transformers' TimeSformer: attention over time, then in space; or one of both, or of single frames."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteAttention
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.transformers.tokens.layer import Layer, refuse_function
from vpeft.core.backbones.shared.divided import DividedBlock, frame_places
from vpeft.registry import BLOCKS, HOSTS

_MODULE = "transformers.models.timesformer.modeling_timesformer"


class TimesformerSelfAttention(SiteAttention):
    """``TimesformerSelfAttention``."""

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, ...]:
        batch, tokens, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v, _ = self.site_core(qkv[0], qkv[1], qkv[2], hidden_states)
        weights = self.attn_drop(self.site_scores(q, k).softmax(dim=-1))
        y = (weights @ v).transpose(1, 2).reshape(batch, tokens, -1)
        return (y, weights) if output_attentions else (y,)

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1)) * self.scale

    def site_places(self) -> Tensor | None:
        return frame_places(self.peft_flow)


@BLOCKS.register_module(name="transformers.TimesformerLayer")
class TimesformerLayer(DividedBlock, Layer):
    """``TimesformerLayer``."""

    site_targets = (f"{_MODULE}.TimesformerLayer",)
    site_parts = {
        "attention": ("{0}.TimeSformerAttention",),
        "attention.attention": ("{0}.TimesformerSelfAttention",),
        "attention.output": ("{0}.TimesformerSelfOutput",),
        "temporal_attention": ("{0}.TimeSformerAttention", None),
        "intermediate": ("{0}.TimesformerIntermediate",),
        "output": ("{0}.TimesformerOutput",),
    }
    site_inner = {"attention.attention": TimesformerSelfAttention}

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        return refuse_function(block)

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attention.attention.num_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "norm1": block.layernorm_before,
            "qkv": block.attention.attention.qkv,
            "proj": block.attention.output.dense,
            "norm2": block.layernorm_after,
            "fc1": block.intermediate.dense,
            "act": block.intermediate.intermediate_act_fn,
            "fc2": block.output.dense,
        }

    @property
    def site_frames(self) -> int:
        return self.config.num_frames

    def site_start(self, x: Tensor) -> Tensor:
        return super().site_start(x) if self.attention_type == "divided_space_time" else x

    def site_time(self, x: Tensor) -> Tensor:
        return self.temporal_dense(self.drop_path(self.temporal_attention(self.temporal_layernorm(x))[0]))

    def site_norm1(self, x: Tensor) -> Tensor:
        divided = self.attention_type == "divided_space_time"
        return self.layernorm_before(self.site_apart(x) if divided else x)

    def site_attention(self, x: Tensor, kept: list[Tensor], output_attentions: bool) -> Tensor:
        y, *weights = self.attention(x, output_attentions=output_attentions)
        kept.extend(weights)
        return y

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.layernorm_after(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.output(self.intermediate(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, ...]:
        kept: list[Tensor] = []
        x = self.site_forward(hidden_states, kept=kept, output_attentions=output_attentions)
        return (x, *kept)


@HOSTS.register_module(name="transformers.TimesformerModel")
class HFTimesformer(Host):
    """``TimesformerModel``; clips are ``(B, T, 3, H, W)``."""

    targets = (f"{_MODULE}.TimesformerModel",)
    frames_first = True

    def describe(self) -> None:
        embeddings = self.backbone.embeddings
        self.add_blocks(self.backbone.encoder.layer, "encoder.layer")
        self.embeds(embeddings.patch_embeddings.projection, embeddings)
        self.prefix = 1
        self.special = {"embeddings.cls_token": "cls_token"}
        self.frames_in = "batch"
        if embeddings.attention_type != "space_only":
            self.special["embeddings.time_embeddings"], self.frames_in = "pos_embed", "tokens"
        self.positions("embeddings.position_embeddings", self.prefix)
        self.add_sites(norm_0=self.backbone.layernorm)

    def map_size(self, inputs: Tensor, embedded: Any) -> tuple[int, ...]:
        size = tuple(size // step for size, step in zip(inputs.shape[-2:], self.patch_size, strict=True))
        if self.frames_in == "batch":
            self.flow.folded = inputs.shape[1]
            return size
        return (inputs.shape[1], *size)
