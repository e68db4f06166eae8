"""timm's VisionTransformerRelPos and Beit: transformers whose attention has a bias by relative position."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.hosts.timm.attention import attend, fused_bias, plain_scores, qkv_module, run_qkv
from vpeft.core.backbones.hosts.timm.mlp import MLPS, mlp_modules, run_mlp
from vpeft.core.backbones.hosts.timm.vit import TimmResPostBlock, TimmViTBlock, TimmViTHost
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.RelPosBlock")
class TimmRelPosBlock(TimmViTBlock):
    """``RelPosBlock``: relative positions of its own, or those that the backbone shares."""

    site_targets = ("timm.models.vision_transformer_relpos.RelPosBlock",)
    any_tokens = False
    site_parts = {"attn": ("{0}.RelPosAttention",), "mlp": MLPS}
    queries_apart = False

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        return self.ls1(self.site_attend(x, **given))

    def site_attend(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        """The attention's output, without LayerScale."""
        attn, own = self.attn, self.peft_flow.own_prefix
        q, k, v = run_qkv(self, attn, x)
        q, k = self.site_norms(q, k)
        biases = self.site_biases(shared_rel_pos)
        scores = functools.partial(self.site_scores, biases=biases)
        q, k, v, _ = self.site_core(q, k, v, x, scores)
        bias = fused_bias(biases, q, k, own) if attn.fused_attn else None
        return attn.proj_drop(attn.proj(attend(attn, q, k, v, scores, bias)))

    def site_norms(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, normalised where the attention does."""
        return self.attn.q_norm(q), self.attn.k_norm(k)

    def site_biases(self, shared: Tensor | None) -> list[Tensor]:
        """The biases ``(1, heads, N, N)`` that are added to the scores, one after the other."""
        if self.attn.rel_pos is not None:
            return [self.attn.rel_pos.get_bias()]
        return [] if shared is None else [shared]

    def site_scores(self, q: Tensor, k: Tensor, biases: Sequence[Tensor]) -> Tensor:
        return plain_scores(self.attn, q, k, biases, self.peft_flow.own_prefix)

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        return self.site_forward(x, shared_rel_pos=shared_rel_pos)


@BLOCKS.register_module(name="timm.ResPostRelPosBlock")
class TimmResPostRelPosBlock(TimmRelPosBlock):
    """``ResPostRelPosBlock``: its norms stand behind the branches."""

    site_targets = ("timm.models.vision_transformer_relpos.ResPostRelPosBlock",)
    norm_behind = True
    site_scales = TimmResPostBlock.site_scales
    site_mlp = TimmResPostBlock.site_mlp

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        return self.site_attend(x, **given)


@BLOCKS.register_module(name="timm.BeitBlock")
class TimmBeitBlock(TimmRelPosBlock):
    """``Block`` of BEiT: keys without bias, LayerScale as parameters, and both kinds of relative positions."""

    site_targets = ("timm.models.beit.Block",)
    site_parts = {"attn": ("{0}.Attention",), "mlp": MLPS}
    free_keys = True

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        return "a bias apart (qkv_bias_separate) is not re-stated." if block.attn.qkv_bias_separate else None

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

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        y = self.site_attend(x, **given)
        return y if self.gamma_1 is None else self.gamma_1 * y

    def site_norms(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q, k

    def site_biases(self, shared: Tensor | None) -> list[Tensor]:
        own = None if self.attn.relative_position_bias_table is None else self.attn._get_rel_pos_bias()
        return [bias for bias in (own, shared) if bias is not None]

    def site_mlp(self, x: Tensor) -> Tensor:
        y = run_mlp(self, self.mlp, x)
        return y if self.gamma_2 is None else self.gamma_2 * y

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        return self.site_forward(x, shared_rel_pos=shared_rel_pos_bias)


@HOSTS.register_module(name="timm.VisionTransformerRelPos")
class TimmViTRelPos(TimmViTHost):
    """timm ``VisionTransformerRelPos``."""

    targets = ("timm.models.vision_transformer_relpos.VisionTransformerRelPos",)

    def describe(self) -> None:
        super().describe()
        if not self.prefix:  # one number for all scores cancels in the softmax
            names = [name for name, _ in self.backbone.named_parameters() if name.endswith("rel_pos.mlp.fc2.bias")]
            self.special |= dict.fromkeys(names, "unused")


@HOSTS.register_module(name="timm.Beit")
class TimmBeit(TimmViTHost):
    """timm ``Beit``."""

    targets = ("timm.models.beit.Beit",)
