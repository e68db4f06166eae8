"""The ViTs of transformers that are copies of one another, from ViT and DeiT to DINOv2 and VideoMAE."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteAttention
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.transformers.tokens.layer import Layer, LayerAttention, classes, refuse, refuse_function
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.backbones.sites.stated_linear import StackedLinear, StatedLinear
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS

#: Their modules, and how the names of their classes begin.
_VITS = {"vit": "ViT", "deit": "DeiT", "vit_mae": "ViTMAE", "vit_msn": "ViTMSN", "ijepa": "IJepa", "yolos": "Yolos"}
_VITS |= {"dpt": "DPTViT", "vivit": "Vivit"}
_VIDEOMAE = {"videomae": "VideoMAE"}
_DINOV2 = {"dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}


class ViTSelfAttention(LayerAttention):
    """``<...>SelfAttention``."""

    def forward(self, hidden_states: Tensor, head_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        shape = (len(hidden_states), -1, self.num_attention_heads, self.attention_head_size)
        q, k, v = (t.view(shape).transpose(1, 2) for t in self.site_qkv(hidden_states))
        q, k, v, _ = self.site_core(q, k, v, hidden_states)
        dropout = self.dropout_prob if self.training else 0.0
        y, weights = self.interface(
            self, q, k, v, None, is_causal=self.is_causal, scaling=self.scaling, dropout=dropout
        )
        return y.reshape(*y.shape[:-2], self.all_head_size), weights

    def site_qkv(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values ``(B, tokens, C)`` each; queries come last."""
        return self.site_linears("qkv", x, order=(1, 2, 0))

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-1, -2) * self.scaling


class VideoMAESelfAttention(ViTSelfAttention):
    """VideoMAE's: weights of the linears are used without calling them, with biases of queries and values apart."""

    def site_qkv(self, x: Tensor) -> tuple[Tensor, ...]:
        site = self.peft_sites["qkv"]
        if not site.placed(*site.allowed):
            return self.site_products(x)
        return site.run(lambda x: torch.cat(self.site_products(x), dim=-1), x).split(site.module.rows, dim=-1)

    def site_products(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values by their weights."""
        bias = None if self.q_bias is None else torch.zeros_like(self.v_bias, requires_grad=False)
        k = F.linear(x, self.key.weight, bias)
        v = F.linear(x, self.value.weight, self.v_bias)
        return F.linear(x, self.query.weight, self.q_bias), k, v


class SelfAttendingLayer(Layer):
    """What the kinds share: ``attention`` is made of ``attention`` (queries, keys, values) and ``output``."""

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if block.attention.pruned_heads:
            return f"pruned heads ({sorted(block.attention.pruned_heads)}) leave a width that methods do not know."
        return refuse_function(block)

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attention.attention.num_attention_heads

    def site_attention(self, x: Tensor) -> Tensor:
        return self.attention(x)

    def forward(self, hidden_states: Tensor, head_mask: Tensor | None = None) -> Tensor:
        refuse(head_mask=head_mask)
        return self.site_forward(hidden_states)


@BLOCKS.register_module(name="transformers.ViTLayer")
class ViTLayer(SelfAttendingLayer):
    """``ViTLayer`` and its copies; the second residual is added inside its module ``output``."""

    site_targets = classes(_VITS, "Layer")
    any_tokens = True
    site_parts = {
        "attention": classes(_VITS, "Attention"),
        "attention.attention": classes(_VITS | {"dpt": "DPT"}, "SelfAttention"),
        "attention.output": classes(_VITS, "SelfOutput"),
        "intermediate": classes(_VITS, "Intermediate"),
        "output": classes(_VITS, "Output"),
    }
    site_inner = {"attention.attention": ViTSelfAttention}

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

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.layernorm_before(x)

    def site_drop1(self, x: Tensor) -> Tensor:
        return x

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.layernorm_after(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.output.dropout(self.output.dense(self.intermediate(x)))

    def site_drop2(self, x: Tensor) -> Tensor:
        return x


@BLOCKS.register_module(name="transformers.VideoMAELayer")
class VideoMAELayer(ViTLayer):
    """``VideoMAELayer``."""

    site_targets = classes(_VIDEOMAE, "Layer")
    site_parts = {
        "attention": classes(_VIDEOMAE, "Attention"),
        "attention.attention": classes(_VIDEOMAE, "SelfAttention"),
        "attention.output": classes(_VIDEOMAE, "SelfOutput"),
        "intermediate": classes(_VIDEOMAE, "Intermediate"),
        "output": classes(_VIDEOMAE, "Output"),
    }
    site_inner: dict[str, type[SiteAttention]] = {"attention.attention": VideoMAESelfAttention}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn = block.attention.attention
        biases = [None] * 3 if attn.q_bias is None else [(attn, "q_bias"), None, (attn, "v_bias")]
        linears = StackedLinear(attn.query, attn.key, attn.value, biases=biases)
        return {**ViTLayer.site_modules(block), "qkv": linears}


@BLOCKS.register_module(name="transformers.Dinov2Layer")
class Dinov2Layer(SelfAttendingLayer):
    """``Dinov2Layer``, with LayerScale and DropPath; the MLP of the giant is gated."""

    site_targets = classes(_DINOV2, "Layer")
    any_tokens = True
    site_parts = {
        "attention": classes(_DINOV2, "Attention"),
        "attention.attention": classes(_DINOV2, "SelfAttention"),
        "attention.output": classes(_DINOV2, "SelfOutput"),
        "mlp": classes(_DINOV2, "MLP", "SwiGLUFFN"),
    }
    site_inner = {"attention.attention": ViTSelfAttention}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear | None]:
        attn, mlp = block.attention.attention, block.mlp
        gated = hasattr(mlp, "weights_in")
        return {
            "norm1": block.norm1,
            "qkv": StackedLinear(attn.query, attn.key, attn.value),
            "proj": block.attention.output.dense,
            "norm2": block.norm2,
            "fc1": mlp.weights_in if gated else mlp.fc1,
            "act": None if gated else mlp.activation,
            "fc2": mlp.weights_out if gated else mlp.fc2,
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module, nn.Module]:
        return block.layer_scale1, block.layer_scale2

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        return self.layer_scale1(self.attention(x))

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        mlp = self.mlp
        if hasattr(mlp, "weights_in"):
            return self.layer_scale2(mlp.weights_out(self.peft_sites["act"].run(_swiglu, mlp.weights_in(x))))
        return self.layer_scale2(mlp(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)


def _swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


class TokenHost(Host):
    """What the hosts share: ``embeddings`` with tokens before the map, ``encoder.layer``, ``layernorm``."""

    frames_first = True  # of VideoMAE and ViViT; the others take images

    def describe(self) -> None:
        backbone, embeddings = self.backbone, self.backbone.embeddings
        read = self.read_blocks(len(backbone.encoder.layer))
        self.add_blocks(backbone.encoder.layer[: max(read) + 1], "encoder.layer")
        for index in range(max(read) + 1, len(backbone.encoder.layer)):
            self.leave(f"encoder.layer.{index}")
        self.outputs, self.reads_map = read, len(read) > 1
        self.embeds(embeddings.patch_embeddings.projection, embeddings)
        own = embeddings._parameters
        positioned = [name for name in ("cls_token", "distillation_token") if own.get(name) is not None]
        before = [own[name] for name in (*positioned, "register_tokens") if own.get(name) is not None]
        self.prefix = sum(token.shape[1] for token in before)
        self.pools_map, self.fixed_width = not self.prefix, getattr(backbone, "pooler", None) is not None
        self.special |= {f"embeddings.{name}": "cls_token" for name in own if name.endswith(("_token", "_tokens"))}
        self.special["embeddings.mask_token"] = "unused"  # but where a pass is given a mask
        if own.get("position_embeddings") is not None:
            self.positions("embeddings.position_embeddings", len(positioned))
        self.add_sites(norm_0=backbone.layernorm)

    def read_blocks(self, count: int) -> list[int]:
        """The blocks, of ``count``, whose outputs leave the backbone."""
        return [count - 1]

    def leave(self, name: str) -> None:
        """Leave a module alone whose output nothing reads."""
        params = self.backbone.get_submodule(name).named_parameters()
        self.special |= {f"{name}.{own}": "unused" for own, _ in params}

    def map_size(self, inputs: Tensor, embedded: Any) -> tuple[int, ...]:
        """Extents of the map; none where the tokens are not all of the map, and it alone, in their order."""
        kernel = self.modules["patch_embed"].kernel_size
        sizes = (*inputs.shape[1 : len(kernel) - 1], *inputs.shape[-2:])  # frames stand before channels
        grid = tuple(size // step for size, step in zip(sizes, kernel, strict=True))
        whole = True
        if isinstance(embedded, tuple) and len(embedded) == 3:  # MAE shuffles what it does not hide, and tells how
            embedded, _, back = embedded
            whole = not in_program() and torch.equal(back, torch.arange(back.shape[1]).to(back).expand_as(back))
        elif isinstance(embedded, tuple):  # InternVL gives the extents too
            embedded = embedded[0]
        embedded = getattr(embedded, "last_hidden_states", embedded)
        return grid if whole and embedded.shape[1] == self.prefix + math.prod(grid) else ()


@HOSTS.register_module(name="transformers.ViTModel")
class HFViT(TokenHost):
    """transformers' ``ViTModel`` and its copies, with a class token (two in DeiT, none in I-JEPA)."""

    targets = classes(_VITS | {"dpt": "DPT", "internvl": "InternVLVision"}, "Model")

    def describe(self) -> None:
        if getattr(self.backbone.config, "is_hybrid", False):
            raise UserError("is_hybrid=True puts a convolutional backbone before the ViT, which no host reads.")
        super().describe()
        if getattr(self.backbone.encoder, "mid_position_embeddings", None) is not None:  # of YOLOS
            self.special["encoder.mid_position_embeddings"] = "pos_embed"
            self.adds_between = True
        if self.under_dense_head:
            del self.modules["norm.0"]
            self.leave("layernorm")

    @property
    def under_dense_head(self) -> bool:
        """Whether this is the ViT of a DPT: built without a pooler, its head reads hidden states before the norm."""
        return hasattr(self.backbone.config, "backbone_out_indices") and self.backbone.pooler is None

    def read_blocks(self, count: int) -> list[int]:
        return sorted(self.backbone.config.backbone_out_indices) if self.under_dense_head else [count - 1]


@HOSTS.register_module(name="transformers.VideoMAEModel")
class HFVideoMAE(TokenHost):
    """transformers' ``VideoMAEModel``; clips are ``(B, T, 3, H, W)``."""

    targets = classes(_VIDEOMAE, "Model")


@HOSTS.register_module(name="transformers.Dinov2Model")
class HFDinov2(TokenHost):
    """transformers' ``Dinov2Model``, with or without registers, and the backbones that give maps to dense heads."""

    targets = classes(_DINOV2, "Model", "Backbone")

    def describe(self) -> None:
        super().describe()
        if not hasattr(self.backbone, "out_features"):
            return
        self.reads_map = True
        if not self.backbone.config.apply_layernorm:
            del self.modules["norm.0"]
            self.leave("layernorm")

    def read_blocks(self, count: int) -> list[int]:
        if not hasattr(self.backbone, "out_features"):
            return [count - 1]
        stages = [self.backbone.stage_names.index(name) for name in self.backbone.out_features]
        return sorted(stage - 1 for stage in stages if stage) or [count - 1]
