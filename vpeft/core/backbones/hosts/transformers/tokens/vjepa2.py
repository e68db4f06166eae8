"""transformers' V-JEPA 2: rotary position embeddings in time and space on the map's tokens alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.transformers.tokens.layer import Layer, LayerAttention, refuse, refuse_function
from vpeft.core.backbones.sites.stated_linear import StackedLinear, StatedLinear
from vpeft.registry import BLOCKS, HOSTS

_MODULE = "transformers.models.vjepa2.modeling_vjepa2"


class VJEPA2Attention(LayerAttention):
    """``VJEPA2RopeAttention``; prompts stand before the map, and are not rotated."""

    def forward(
        self,
        hidden_states: Tensor,
        position_mask: Tensor | None = None,
        output_attentions: bool = False,
        head_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        refuse(position_mask=position_mask, head_mask=head_mask)
        shape = (len(hidden_states), -1, self.num_attention_heads, self.attention_head_size)
        q, k, v = (t.view(shape).transpose(1, 2) for t in self.site_linears("qkv", hidden_states))
        first = self.peft_flow.prefix
        places = self.get_position_ids(hidden_states[:, first:])
        k, q = (self.site_rotated(t, places, first) for t in (k, q))
        q, k, v, _ = self.site_core(q, k, v, hidden_states)
        dropout = self.dropout_prob if self.training else 0.0
        y, weights = self.interface(
            self, q, k, v, None, is_causal=self.is_causal, scaling=self.scaling, dropout=dropout
        )
        y = self.proj(y.reshape(*y.shape[:-2], self.all_head_size))
        return (y, weights) if output_attentions else (y,)

    def site_rotated(self, t: Tensor, places: tuple[Tensor, ...], first: int) -> Tensor:
        """Queries or keys ``(B, heads, tokens, width)``, those of the map rotated by their places."""
        if not first:
            return self.apply_rotary_embeddings(t, places)
        return torch.cat((t[:, :, :first], self.apply_rotary_embeddings(t[:, :, first:], places)), dim=2)

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.matmul(q, k.transpose(-1, -2)) * self.scaling


@BLOCKS.register_module(name="transformers.VJEPA2Layer")
class VJEPA2Layer(Layer):
    """``VJEPA2Layer``."""

    site_targets = (f"{_MODULE}.VJEPA2Layer",)
    site_parts = {"attention": ("{0}.VJEPA2RopeAttention",), "mlp": ("{0}.VJEPA2MLP",)}
    site_inner = {"attention": VJEPA2Attention}
    free_keys = False

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        return refuse_function(block)

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attention.num_attention_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn, mlp = block.attention, block.mlp
        return {
            "norm1": block.norm1,
            "qkv": StackedLinear(attn.query, attn.key, attn.value),
            "proj": attn.proj,
            "norm2": block.norm2,
            "fc1": mlp.fc1,
            "act": mlp.activation,
            "fc2": mlp.fc2,
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor, kept: list[Tensor], output_attentions: bool) -> Tensor:
        y, *weights = self.attention(x, output_attentions=output_attentions)
        kept.extend(weights)
        return y

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def forward(
        self,
        hidden_states: Tensor,
        position_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        refuse(position_mask=position_mask, head_mask=head_mask)
        kept: list[Tensor] = []
        x = self.site_forward(hidden_states, kept=kept, output_attentions=output_attentions)
        return (x, *kept)


@HOSTS.register_module(name="transformers.VJEPA2Encoder")
class HFVJEPA2(Host):
    """``VJEPA2Encoder`` inside ``VJEPA2Model``, whose predictor stays as it is; clips are ``(B, T, 3, H, W)``."""

    targets = (f"{_MODULE}.VJEPA2Encoder",)

    def describe(self) -> None:
        self.add_blocks(self.backbone.layer, "layer")
        self.embeds(self.backbone.embeddings.patch_embeddings.proj)
        self.add_sites(norm_0=self.backbone.layernorm)
