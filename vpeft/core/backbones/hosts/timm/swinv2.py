"""timm's SwinTransformerV2."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.hosts.timm.swin import TimmSwin, TimmSwinBlock
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.core.backbones.windows.shifted import add_mask, continuous_bias, cosine, pad_bias
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.SwinTransformerV2Block")
class TimmSwinV2Block(TimmSwinBlock):
    """``SwinTransformerV2Block``: cosine attention, biases of queries and values apart, norms behind the branches."""

    site_targets = ("timm.models.swin_transformer_v2.SwinTransformerV2Block",)
    site_parts = {"attn": ("{0}.WindowAttention",), "mlp": ("timm.layers.mlp.Mlp",)}
    norm_behind = True

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn = block.attn
        biased = attn.q_bias is not None
        stated = StatedLinear((attn.qkv, "weight"), (attn, "q_bias"), None, (attn, "v_bias")) if biased else attn.qkv
        return {**TimmSwinBlock.site_modules(block), "qkv": stated}

    def site_window(self, x: Tensor, mask: Tensor | None) -> Tensor:
        attn = self.attn
        batch, tokens, _ = x.shape
        # Without biases of its own the module is called, and its hooks run the site.
        qkv = attn.qkv(x) if attn.q_bias is None else self.peft_sites["qkv"].run(self.site_qkv, x)
        qkv = qkv.reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = functools.partial(self.site_scores, mask=mask)
        q, k, v, _ = self.site_core(*qkv.unbind(0), x, scores)
        weights = attn.attn_drop(attn.softmax(scores(q, k)))
        y = (weights @ v).transpose(1, 2).reshape(batch, tokens, -1)
        return attn.proj_drop(attn.proj(y))

    def site_qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side; keys have no bias."""
        attn = self.attn
        bias = torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
        return F.linear(x, attn.qkv.weight) + bias if attn.qkv_bias_separate else F.linear(x, attn.qkv.weight, bias)

    def site_scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        attn = self.attn
        scores = cosine(q, k, attn.logit_scale)
        bias = continuous_bias(attn.cpb_mlp, attn.relative_coords_table, attn.relative_position_index, self.window_area)
        scores = scores + pad_bias(bias, *scores.shape[-2:]).unsqueeze(0)
        return scores if mask is None else add_mask(scores, mask)


@HOSTS.register_module(name="timm.SwinTransformerV2")
class TimmSwinV2(TimmSwin):
    """timm ``SwinTransformerV2``."""

    targets = ("timm.models.swin_transformer_v2.SwinTransformerV2",)
