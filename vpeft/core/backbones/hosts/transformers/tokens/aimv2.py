"""The image tower of transformers' AIMv2: RMS norms and gated MLPs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.transformers.tokens.clip import SiglipAttention
from vpeft.core.backbones.hosts.transformers.tokens.layer import Layer, refuse, refuse_function
from vpeft.core.backbones.sites.stated_linear import StackedLinear, StatedLinear
from vpeft.registry import BLOCKS, HOSTS

_MODULE = "transformers.models.aimv2.modeling_aimv2"


@BLOCKS.register_module(name="transformers.Aimv2EncoderLayer")
class Aimv2Layer(Layer):
    """``Aimv2EncoderLayer``; its attention is SigLIP's."""

    site_targets = (f"{_MODULE}.Aimv2EncoderLayer",)
    site_parts = {"attention": ("{0}.Aimv2Attention",), "ffn": ("{0}.Aimv2MLP",)}
    site_inner = {"attention": SiglipAttention}

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        return refuse_function(block)

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attention.num_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear | None]:
        attn, mlp = block.attention, block.ffn
        return {
            "norm1": block.rms_norm1,
            "qkv": StackedLinear(attn.q_proj, attn.k_proj, attn.v_proj),
            "proj": attn.out_proj,
            "norm2": block.rms_norm2,
            "fc1": StackedLinear(mlp.gate_proj, mlp.up_proj),
            "act": None,
            "fc2": mlp.down_proj,
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.rms_norm1(x)

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        return self.attention(hidden_states=x, **given)[0]

    def site_drop1(self, x: Tensor) -> Tensor:
        return x

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.rms_norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.site_gated(self.ffn, x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return x

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        refuse(attention_mask=attention_mask)
        return self.site_forward(hidden_states, **kwargs)


@HOSTS.register_module(name="transformers.Aimv2VisionModel")
class HFAimv2(Host):
    """``Aimv2VisionModel``: no class token, and pooling by attention, which is a frozen part of the base."""

    targets = (f"{_MODULE}.Aimv2VisionModel",)

    def describe(self) -> None:
        backbone, embeddings = self.backbone, self.backbone.embeddings
        self.add_blocks(backbone.encoder.layers, "encoder.layers")
        self.embeds(embeddings.patch_embed)
        self.add_sites(patch_norm=embeddings.rms_norm, norm_0=backbone.rms_norm)
        if hasattr(embeddings, "position_embedding"):
            self.positions("embeddings.position_embedding.weight", 0)
        self.pools_tokens = backbone.use_head
        if backbone.use_head:
            self.special["head.cls_token"] = "cls_token"
