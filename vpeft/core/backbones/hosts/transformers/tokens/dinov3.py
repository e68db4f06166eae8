"""transformers' DINOv3 ViT: rotary position embeddings on the map's tokens alone."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.transformers.tokens.layer import Layer, LayerAttention, refuse, refuse_function
from vpeft.core.backbones.sites.stated_linear import StackedLinear, StatedLinear
from vpeft.registry import BLOCKS, HOSTS

_MODULE = "transformers.models.dinov3_vit.modeling_dinov3_vit"


class DINOv3Attention(LayerAttention):
    """``DINOv3ViTAttention``; what stands before the map, prompts included, is not rotated."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        refuse(attention_mask=attention_mask)
        shape = (*hidden_states.shape[:2], self.num_heads, self.head_dim)
        q, k, v = (t.view(shape).transpose(1, 2) for t in self.site_linears("qkv", hidden_states))
        q, k = sys.modules[_MODULE].apply_rotary_pos_emb(q, k, *position_embeddings)
        q, k, v, _ = self.site_core(q, k, v, hidden_states)
        dropout = self.dropout if self.training else 0.0
        y, weights = self.interface(self, q, k, v, None, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(y.reshape(*hidden_states.shape[:2], -1).contiguous()), weights

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-1, -2) * self.scaling


@BLOCKS.register_module(name="transformers.DINOv3ViTLayer")
class DINOv3Layer(Layer):
    """``DINOv3ViTLayer``, with LayerScale and DropPath; the MLP of the largest is gated."""

    site_targets = (f"{_MODULE}.DINOv3ViTLayer",)
    site_parts = {
        "attention": ("{0}.DINOv3ViTAttention",),
        "mlp": ("{0}.DINOv3ViTMLP", "{0}.DINOv3ViTGatedMLP"),
    }
    site_inner = {"attention": DINOv3Attention}
    free_keys = False

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        return refuse_function(block)

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attention.num_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear | None]:
        attn, mlp = block.attention, block.mlp
        gated = hasattr(mlp, "gate_proj")
        return {
            "norm1": block.norm1,
            "qkv": StackedLinear(attn.q_proj, attn.k_proj, attn.v_proj),
            "proj": attn.o_proj,
            "norm2": block.norm2,
            "fc1": StackedLinear(mlp.gate_proj, mlp.up_proj) if gated else mlp.up_proj,
            "act": None if gated else mlp.act_fn,
            "fc2": mlp.down_proj,
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module, nn.Module]:
        return block.layer_scale1, block.layer_scale2

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        return self.layer_scale1(self.attention(x, **given)[0])

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.layer_scale2(self.site_gated(self.mlp, x) if hasattr(self.mlp, "gate_proj") else self.mlp(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        refuse(attention_mask=attention_mask)
        return self.site_forward(hidden_states, position_embeddings=position_embeddings)


@HOSTS.register_module(name="transformers.DINOv3ViTModel")
class HFDINOv3(Host):
    """``DINOv3ViTModel``, with a class token and registers; it has no position table."""

    targets = (f"{_MODULE}.DINOv3ViTModel",)

    def describe(self) -> None:
        backbone, embeddings = self.backbone, self.backbone.embeddings
        self.add_blocks(backbone.layer, "layer")
        self.embeds(embeddings.patch_embeddings)
        self.prefix = 1 + embeddings.register_tokens.shape[1]
        self.special = {"embeddings.cls_token": "cls_token", "embeddings.register_tokens": "cls_token"}
        self.special["embeddings.mask_token"] = "unused"  # but where a pass is given a mask
        self.add_sites(norm_0=backbone.norm)
