"""BEiT of transformers, and Data2Vec's copy of it: attention with a bias by relative position."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteAttention
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.transformers.tokens.layer import Layer, refuse, refuse_function
from vpeft.core.backbones.sites.stated_linear import StackedLinear, StatedLinear
from vpeft.core.backbones.windows.shifted import pad_bias
from vpeft.registry import BLOCKS, HOSTS


def _classes(*ends: str) -> tuple[str, ...]:
    starts = ("beit.modeling_beit.Beit", "data2vec.modeling_data2vec_vision.Data2VecVision")
    return tuple(f"transformers.models.{start}{end}" for start in starts for end in ends)


class BeitSelfAttention(SiteAttention):
    """``BeitSelfAttention`` and ``BeitSdpaSelfAttention``, by the class."""

    def forward(
        self,
        hidden_states: Tensor,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
        relative_position_bias: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        resolution: tuple[int, int] | None = None,
    ) -> tuple[Tensor | None, ...]:
        refuse(head_mask=head_mask)
        x = hidden_states
        shape = (len(x), -1, self.num_attention_heads, self.attention_head_size)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.site_linears("qkv", x))
        biases = [] if relative_position_bias is None else [relative_position_bias]
        if self.has_relative_position_bias:
            biases = [self.site_bias(interpolate_pos_encoding, resolution), *biases]
        scores = functools.partial(self.site_scores, biases=biases)
        q, k, v, _ = self.site_core(q, k, v, x, scores)
        fused = "Sdpa" in self.plain_class.__name__
        if fused and not output_attentions:
            y, weights = self.site_fused(q, k, v, biases), None
        else:
            weights = self.dropout(scores(q, k).softmax(dim=-1))
            y = weights @ v
        y = y.permute(0, 2, 1, 3).contiguous()
        y = y.view(*y.shape[:-2], self.all_head_size)
        return (y, weights) if fused or output_attentions else (y,)

    def site_bias(self, interpolate: bool, resolution: tuple[int, int]) -> Tensor:
        """The bias of the block's own table ``(1, heads, N, N)``, of the class token and the map alone."""
        size = tuple(extent // self.config.patch_size for extent in resolution)
        return self.relative_position_bias(size, interpolate, dim_size=self.peft_flow.own_prefix + math.prod(size))

    def site_fused(self, q: Tensor, k: Tensor, v: Tensor, biases: Sequence[Tensor]) -> Tensor:
        """The same by torch's fused products."""
        bias = None
        if biases:
            bias = biases[0] if len(biases) == 1 else biases[0] + biases[1]
            bias = pad_bias(bias, q.shape[-2], k.shape[-2], self.peft_flow.own_prefix)
        drop = self.config.attention_probs_dropout_prob if self.training else 0.0
        scale = 1 / math.sqrt(self.attention_head_size)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop, scale=scale)

    def site_scores(self, q: Tensor, k: Tensor, biases: Sequence[Tensor]) -> Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.attention_head_size)
        for bias in biases:
            scores = scores + pad_bias(bias, *scores.shape[-2:], self.peft_flow.own_prefix)
        return scores


@BLOCKS.register_module(name="transformers.BeitLayer")
class BeitLayer(Layer):
    """``BeitLayer`` and ``Data2VecVisionLayer``."""

    site_targets = _classes("Layer")
    site_parts = {
        "attention": _classes("Attention"),
        "attention.attention": _classes("SelfAttention", "SdpaSelfAttention"),
        "attention.output": _classes("SelfOutput"),
        "intermediate": _classes("Intermediate"),
        "output": _classes("Output"),
    }
    site_inner = {"attention.attention": BeitSelfAttention}

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if block.attention.pruned_heads:
            return f"pruned heads ({sorted(block.attention.pruned_heads)}) leave a width that methods do not know."
        return refuse_function(block)

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attention.attention.num_attention_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn = block.attention.attention
        return {
            "norm1": block.layernorm_before,
            "qkv": StackedLinear(attn.query, attn.key, attn.value),
            "proj": block.attention.output.dense,
            "norm2": block.layernorm_after,
            "fc1": block.intermediate.dense,
            "act": block.intermediate.intermediate_act_fn,
            "fc2": block.output.dense,
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Parameter | None, nn.Parameter | None]:
        return block.lambda_1, block.lambda_2

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.layernorm_before(x)

    def site_attention(self, x: Tensor, kept: list[Any], **given: Any) -> Tensor:
        y, *kept[:] = self.attention(x, **given)
        return y if self.lambda_1 is None else self.lambda_1 * y

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.layernorm_after(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        y = self.output(self.intermediate(x))
        return y if self.lambda_2 is None else self.lambda_2 * y

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        names = ("head_mask", "output_attentions", "relative_position_bias", "interpolate_pos_encoding", "resolution")
        kept: list[Any] = []
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return (self.site_forward(hidden_states, kept=kept, **given), *kept)


@HOSTS.register_module(name="transformers.BeitModel")
class HFBeit(Host):
    """transformers' ``BeitModel`` and ``Data2VecVisionModel``."""

    targets = _classes("Model")

    def describe(self) -> None:
        backbone, embeddings = self.backbone, self.backbone.embeddings
        self.add_blocks(backbone.encoder.layer, "encoder.layer")
        self.embeds(embeddings.patch_embeddings.projection)
        self.prefix, self.pools_map = 1, bool(backbone.config.use_mean_pooling)
        # The mask token is read where a pass is given a mask, and nowhere else.
        self.special = {"embeddings.cls_token": "cls_token", "embeddings.mask_token": "unused"}
        if embeddings.position_embeddings is not None:
            self.positions("embeddings.position_embeddings", self.prefix)
        self.add_sites(norm_0=backbone.layernorm, pool_norm=getattr(backbone.pooler, "layernorm", None))
        if "norm.0" not in self.modules:
            self.identities["norm.0"] = backbone.layernorm
