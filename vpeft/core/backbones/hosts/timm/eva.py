"""timm's Eva: EVA and EVA-02, DINOv3, Perception Encoders and others with rotary position embeddings."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from vpeft.core.backbones.hosts.timm.attention import attend, mask_for, qkv_module, run_qkv
from vpeft.core.backbones.hosts.timm.mlp import MLPS, mlp_modules, run_mlp
from vpeft.core.backbones.hosts.timm.vit import TimmViTBlock, TimmViTHost, refuse_causal
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.EvaBlock")
class TimmEvaBlock(TimmViTBlock):
    """``EvaBlock``: the map's tokens are turned by rotary embeddings, those before the map are not."""

    site_targets = ("timm.models.eva.EvaBlock",)
    any_tokens = False
    site_parts = {"attn": ("timm.models.eva.EvaAttention", "timm.layers.attention.AttentionRope"), "mlp": MLPS}
    queries_apart = False

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if getattr(block.attn, "qkv_bias_separate", False):
            return "a bias apart (qkv_bias_separate) is not re-stated."
        return None

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear | None]:
        return {
            "norm1": block.norm1,
            "qkv": qkv_module(block.attn),
            "proj": block.attn.proj,
            "norm2": block.norm2,
            **mlp_modules(block.mlp),
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Parameter | None, nn.Parameter | None]:
        return block.gamma_1, block.gamma_2

    def site_attention(self, x: Tensor, rope: Tensor | None, mask: Tensor | None = None) -> Tensor:
        y = self.site_attend(x, rope, mask)
        return y if self.gamma_1 is None else self.gamma_1 * y

    def site_attend(self, x: Tensor, rope: Tensor | None, mask: Tensor | None) -> Tensor:
        """The attention's output, without LayerScale."""
        attn = self.attn
        gate = attn.gate(x).sigmoid() if attn.gate is not None else None
        q, k, v = run_qkv(self, attn, x)
        q, k = attn.q_norm(q), attn.k_norm(k)
        if rope is not None:
            q, k = self.site_turn(q, rope).type_as(v), self.site_turn(k, rope).type_as(v)
        if (groups := attn.num_heads // k.shape[1]) > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        scores = functools.partial(self.site_scores, mask=mask)
        q, k, v, _ = self.site_core(q, k, v, x, scores)
        seen = mask_for(mask, q.shape[2], k.shape[2], self.peft_flow.own_prefix)
        y = attn.norm(attend(attn, q, k, v, scores, seen))
        if gate is not None:
            y = y * gate
        return attn.proj_drop(attn.proj(y))

    def site_turn(self, x: Tensor, rope: Tensor) -> Tensor:
        """Queries or keys turned by the rotary embedding of their places on the map."""
        from timm.layers import apply_rot_embed_cat

        prefix = self.peft_flow.prefix
        turned = apply_rot_embed_cat(x[:, :, prefix:, :], rope, half=getattr(self.attn, "rotate_half", False))
        return torch.cat([x[:, :, :prefix, :], turned], dim=2)

    def site_mlp(self, x: Tensor) -> Tensor:
        y = run_mlp(self, self.mlp, x)
        return y if self.gamma_2 is None else self.gamma_2 * y

    def forward(
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        refuse_causal(is_causal)
        return self.site_forward(x, rope=rope, mask=attn_mask)


@BLOCKS.register_module(name="timm.EvaBlockPostNorm")
class TimmEvaPostBlock(TimmEvaBlock):
    """``EvaBlockPostNorm``: its norms stand behind the branches, and there is no LayerScale."""

    site_targets = ("timm.models.eva.EvaBlockPostNorm",)
    norm_behind = True

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[None, None]:
        return None, None

    def site_attention(self, x: Tensor, rope: Tensor | None, mask: Tensor | None = None) -> Tensor:
        return self.site_attend(x, rope, mask)

    def site_mlp(self, x: Tensor) -> Tensor:
        return run_mlp(self, self.mlp, x)


@HOSTS.register_module(name="timm.Eva")
class TimmEva(TimmViTHost):
    """timm ``Eva``."""

    targets = ("timm.models.eva.Eva",)
