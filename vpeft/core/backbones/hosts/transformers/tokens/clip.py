"""The image towers of transformers' CLIP and its copies: CLIP, MetaCLIP 2, GIT, SigLIP and SigLIP 2."""

from __future__ import annotations

import functools
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import full_name
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.transformers.tokens.layer import Layer, LayerAttention, classes, refuse, refuse_function
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.backbones.sites.stated_linear import StackedLinear, StatedLinear
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS

_CLIP = {"clip": "CLIP", "metaclip_2": "MetaClip2", "git": "GitVision"}
_TOWERS = {"clip": "CLIP", "metaclip_2": "MetaClip2", "git": "Git", "owlvit": "OwlViT", "owlv2": "Owlv2"}
_SIGLIP = {"siglip": "Siglip", "siglip2": "Siglip2"}


class CLIPAttention(LayerAttention):
    """``CLIPAttention``."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        causal_attention_mask: Tensor | None = None,
        output_attentions: bool | None = False,
    ) -> tuple[Tensor, Tensor | None]:
        refuse(causal_attention_mask=causal_attention_mask)
        y, weights = self.site_attend(hidden_states, attention_mask, output_attentions=output_attentions)
        return y, weights if output_attentions else None

    def site_attend(self, x: Tensor, mask: Tensor | None, **given: Any) -> tuple[Tensor, Tensor | None]:
        """Output and attention weights; ``given`` goes to the attention function."""
        shape = (*x.shape[:2], -1, self.head_dim)
        q, k, v = (t.view(shape).transpose(1, 2) for t in self.site_linears("qkv", x))
        scores = functools.partial(self.site_scores, mask=mask)
        q, k, v, _ = self.site_core(q, k, v, x, scores)
        given |= {"scaling": self.scale, "dropout": self.dropout if self.training else 0.0}
        mask = widened(mask, q.shape[2], k.shape[2])
        y, weights = self.interface(self, q, k, v, mask, is_causal=self.is_causal, **given)
        return self.out_proj(y.reshape(*x.shape[:2], -1).contiguous()), weights

    def site_scores(self, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = q @ k.transpose(-1, -2) * self.scale
        mask = widened(mask, q.shape[2], k.shape[2])
        return scores if mask is None else scores + mask


class SiglipAttention(CLIPAttention):
    """``SiglipAttention``, which always gives its attention weights where there are any."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        return self.site_attend(hidden_states, attention_mask)


def widened(mask: Tensor | None, queries: int, keys: int) -> Tensor | None:
    """A mask ``(B, 1, N, N)`` of keys for more queries and keys, which stand first and are seen by all.

    Raises:
        UserError: It is another mask, as flash attention takes it.
    """
    if mask is None or (mask.dim() == 4 and mask.shape[-2:] == (queries, keys)):
        return mask
    if mask.dim() != 4:
        if mask.shape[-1] == queries == keys:
            return mask
        raise UserError(
            "prompts and prefixes do not fit into the mask of padded images that flash attention takes: use "
            "attn_implementation='sdpa', or images of one size."
        )
    return F.pad(mask[:, :, :1], (keys - mask.shape[-1], 0)).expand(-1, -1, queries, -1)


@BLOCKS.register_module(name="transformers.CLIPEncoderLayer")
class CLIPLayer(Layer):
    """``CLIPEncoderLayer``; it gives its output, and the attention weights where they are asked for."""

    site_targets = classes(_CLIP, "EncoderLayer")
    any_tokens = True
    site_parts = {"self_attn": classes(_CLIP, "Attention"), "mlp": classes(_CLIP, "MLP")}
    site_inner = {"self_attn": CLIPAttention}

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        return refuse_function(block)

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.self_attn.num_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn = block.self_attn
        return {
            "norm1": block.layer_norm1,
            "qkv": StackedLinear(attn.q_proj, attn.k_proj, attn.v_proj),
            "proj": attn.out_proj,
            "norm2": block.layer_norm2,
            "fc1": block.mlp.fc1,
            "act": block.mlp.activation_fn,
            "fc2": block.mlp.fc2,
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.layer_norm1(x)

    def site_attention(self, x: Tensor, kept: list[Tensor | None] | None = None, **given: Any) -> Tensor:
        y, weights = self.self_attn(hidden_states=x, **given)
        if kept is not None:
            kept.append(weights)
        return y

    def site_drop1(self, x: Tensor) -> Tensor:
        return x

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.layer_norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return x

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        causal_attention_mask: Tensor | None = None,
        output_attentions: bool | None = False,
    ) -> tuple[Tensor | None, ...]:
        refuse(attention_mask=attention_mask, causal_attention_mask=causal_attention_mask)
        kept: list[Tensor | None] = []
        x = self.site_forward(hidden_states, kept=kept, output_attentions=output_attentions)
        return (x, *kept) if output_attentions else (x,)


@BLOCKS.register_module(name="transformers.SiglipEncoderLayer")
class SiglipLayer(CLIPLayer):
    """``SiglipEncoderLayer``; a mask hides keys of padded images."""

    site_targets = classes(_SIGLIP, "EncoderLayer")
    site_parts = {"self_attn": classes(_SIGLIP, "Attention"), "mlp": classes(_SIGLIP, "MLP")}
    site_inner = {"self_attn": SiglipAttention}
    mask_name = "attention_mask"

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        return self.site_forward(hidden_states, attention_mask=attention_mask, **kwargs)


@HOSTS.register_module(name="transformers.CLIPVisionTransformer")
class HFCLIP(Host):
    """``CLIPVisionTransformer``, the image tower inside ``CLIPVisionModel`` and ``CLIPModel``, and towers like it."""

    targets = (
        *classes(_TOWERS, "VisionTransformer"),
        "transformers.models.blip.modeling_blip.BlipVisionModel",
    )

    def describe(self) -> None:
        backbone, embeddings = self.backbone, self.backbone.embeddings
        self.add_blocks(backbone.encoder.layers, "encoder.layers")
        self.embeds(embeddings.patch_embedding)
        self.prefix = 1
        self.special["embeddings.class_embedding"] = "cls_token"
        table = "position_embedding" if "position_embedding" in embeddings._parameters else "position_embedding.weight"
        self.positions(f"embeddings.{table}", 1)
        self.add_sites(pre_norm=getattr(backbone, "pre_layrnorm", getattr(backbone, "pre_layernorm", None)))
        # GIT norms all tokens, BLIP the class token once more, and the others the class token alone.
        of_tokens = full_name(type(backbone)).endswith(".GitVisionTransformer")
        self.add_sites(**{"norm_0" if of_tokens else "pool_norm": backbone.post_layernorm})


@HOSTS.register_module(name="transformers.SiglipVisionTransformer")
class HFSiglip(Host):
    """``SiglipVisionTransformer``: no class token, and pooling by attention, which is a frozen part of the base.

    ``Siglip2VisionTransformer`` takes patches ``(B, N, 3 p p)`` of images of different extents, padded to one number.
    """

    targets = classes(_SIGLIP, "VisionTransformer")

    def describe(self) -> None:
        backbone, embeddings = self.backbone, self.backbone.embeddings
        self.add_blocks(backbone.encoder.layers, "encoder.layers")
        if isinstance(embeddings.patch_embedding, nn.Linear):
            self.modules["patch_embed"], self.embedding = embeddings.patch_embedding, embeddings
            self.patch_size = (embeddings.patch_size,) * 2
            self.in_channels = embeddings.patch_embedding.in_features // embeddings.patch_size**2
        else:
            self.embeds(embeddings.patch_embedding)
        self.positions("embeddings.position_embedding.weight", 0)
        self.add_sites(norm_0=backbone.post_layernorm)
        self.pools_tokens = backbone.use_head
        if backbone.use_head:
            self.special |= {"head.probe": "cls_token", "head.attention.in_proj_weight": "weight"}
            self.special["head.attention.in_proj_bias"] = "bias"

    def seen(self, args: tuple[Any, ...], embedded: Tensor, **given: Any) -> tuple[int, ...]:
        """Extents of the map, none where images differ in them or are padded."""
        if len(args) < 2:
            return self.map_size(args[0], embedded)
        shapes = set() if in_program() else {tuple(shape) for shape in args[1].tolist()}
        grid = shapes.pop() if len(shapes) == 1 else ()
        return grid if grid and grid[0] * grid[1] == embedded.shape[1] else ()
