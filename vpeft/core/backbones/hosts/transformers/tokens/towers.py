"""Layers of other image towers of transformers: BLIP, OWL-ViT and OWLv2, InternVL."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.hosts.transformers.tokens.clip import CLIPLayer
from vpeft.core.backbones.hosts.transformers.tokens.layer import Layer, LayerAttention, classes, refuse, refuse_function
from vpeft.core.backbones.sites.stated_linear import StackedLinear, StatedLinear
from vpeft.registry import BLOCKS

_OWL = {"owlvit": "OwlViT", "owlv2": "Owlv2"}
_BLIP = {"blip": "Blip"}
_INTERNVL = {"internvl": "InternVLVision"}


class BlipAttention(LayerAttention):
    """``BlipAttention``: queries, keys and values of one linear."""

    def forward(self, hidden_states: Tensor, head_mask: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, Tensor]:
        refuse(head_mask=head_mask)
        batch, tokens, dim = hidden_states.shape
        qkv = self.qkv(hidden_states).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v, _ = self.site_core(qkv[0], qkv[1], qkv[2], hidden_states)
        weights = self.dropout(self.site_scores(q, k).softmax(dim=-1))
        y = (weights @ v).permute(0, 2, 1, 3).reshape(batch, tokens, dim)
        return self.projection(y), weights

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.matmul(q, k.transpose(-1, -2)) * self.scale


@BLOCKS.register_module(name="transformers.BlipEncoderLayer")
class BlipLayer(CLIPLayer):
    """``BlipEncoderLayer``."""

    site_targets = classes(_BLIP, "EncoderLayer")
    site_parts = {"self_attn": classes(_BLIP, "Attention"), "mlp": classes(_BLIP, "MLP")}
    site_inner = {"self_attn": BlipAttention}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        mlp, attn = block.mlp, block.self_attn
        found = {"norm1": block.layer_norm1, "qkv": attn.qkv, "proj": attn.projection, "norm2": block.layer_norm2}
        return {**found, "fc1": mlp.fc1, "act": mlp.activation_fn, "fc2": mlp.fc2}

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        refuse(head_mask=attention_mask)
        return self.site_forward(hidden_states, **kwargs)


class OwlAttention(LayerAttention):
    """``OwlViTAttention``: queries are scaled first, and products run over images and heads at once."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        causal_attention_mask: Tensor | None = None,
        output_attentions: bool | None = False,
    ) -> tuple[Tensor, Tensor | None]:
        refuse(attention_mask=attention_mask, causal_attention_mask=causal_attention_mask)
        batch, tokens, dim = hidden_states.shape
        q, k, v = (self._shape(t, -1, batch) for t in self.site_linears("qkv", hidden_states))
        q, k, v, _ = self.site_core(q, k, v, hidden_states)
        weights = self.site_scores(q, k).softmax(dim=-1)
        dropped = F.dropout(weights, p=self.dropout, training=self.training).to(v.dtype)
        y = torch.bmm(dropped.flatten(0, 1), v.flatten(0, 1)).view(batch, self.num_heads, tokens, -1)
        return self.out_proj(y.transpose(1, 2).reshape(batch, tokens, dim)), weights if output_attentions else None

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        products = torch.bmm((q * self.scale).flatten(0, 1), k.flatten(0, 1).transpose(1, 2))
        return products.unflatten(0, q.shape[:2])


@BLOCKS.register_module(name="transformers.OwlViTEncoderLayer")
class OwlLayer(CLIPLayer):
    """``OwlViTEncoderLayer``."""

    site_targets = classes(_OWL, "EncoderLayer")
    site_parts = {"self_attn": classes(_OWL, "Attention"), "mlp": classes(_OWL, "MLP")}
    site_inner = {"self_attn": OwlAttention}


class InternVLAttention(LayerAttention):
    """``InternVLVisionAttention``: norms of queries and keys, if any, stand before they are cut into heads."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        refuse(attention_mask=attention_mask)
        shape = (*hidden_states.shape[:2], self.num_heads, self.head_dim)
        q, k, v = self.site_linears("qkv", hidden_states)
        q, k, v = (t.reshape(shape).transpose(1, 2) for t in (self.q_norm(q), self.k_norm(k), v))
        q, k, v, _ = self.site_core(q, k, v, hidden_states)
        given = {"dropout": self.attention_dropout if self.training else 0.0, "scaling": self.scale, **kwargs}
        y, weights = self.interface(self, q, k, v, None, is_causal=False, **given)
        y = y.reshape(*hidden_states.shape[:2], self.embed_dim)
        return self.projection_dropout(self.projection_layer(y)), weights

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.matmul(q, k.transpose(2, 3)) * self.scale


@BLOCKS.register_module(name="transformers.InternVLVisionLayer")
class InternVLLayer(Layer):
    """``InternVLVisionLayer``, with LayerScale as parameters."""

    site_targets = classes(_INTERNVL, "Layer")
    site_parts = {"attention": classes(_INTERNVL, "Attention"), "mlp": classes(_INTERNVL, "MLP")}
    site_inner = {"attention": InternVLAttention}
    free_keys = False

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        return refuse_function(block)

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attention.num_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn, mlp = block.attention, block.mlp
        return {
            "norm1": block.layernorm_before,
            "qkv": StackedLinear(attn.q_proj, attn.k_proj, attn.v_proj),
            "proj": attn.projection_layer,
            "norm2": block.layernorm_after,
            "fc1": mlp.fc1,
            "act": mlp.activation_fn,
            "fc2": mlp.fc2,
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
        return block.lambda_1, block.lambda_2

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.layernorm_before(x)

    def site_attention(self, x: Tensor) -> Tensor:
        return self.lambda_1 * self.attention(x)[0]

    def site_drop1(self, x: Tensor) -> Tensor:
        return x

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.layernorm_after(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.lambda_2 * self.dropout(self.mlp(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return x

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.site_forward(hidden_states)
