"""BEiT of mmpretrain (BEiT, BEiT v2, EVA) and of mmseg: attention with a bias by relative position."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.hosts.mmpretrain.vit import MMPretrainViT
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.core.backbones.windows.shifted import pad_bias
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmpretrain.BEiTTransformerEncoderLayer")
class BEiTBlock(SiteBlock):
    """``BEiTTransformerEncoderLayer``: the weights of qkv are used without calling it, with no bias of keys."""

    site_targets = (
        "mmpretrain.models.backbones.beit.BEiTTransformerEncoderLayer",
        "mmseg.models.backbones.beit.BEiTTransformerEncoderLayer",
        "mmseg.models.backbones.mae.MAETransformerEncoderLayer",
    )
    site_parts = {
        "attn": (
            "mmpretrain.models.utils.attention.BEiTAttention",
            "mmseg.models.backbones.beit.BEiTAttention",
            "mmseg.models.backbones.mae.MAEAttention",
        ),
        "ffn": ("mmcv.cnn.bricks.transformer.FFN",),
    }
    free_keys = True

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if block.ffn.num_fcs != 2 or block.ffn.add_identity:
            return f"an MLP of other than two linears (num_fcs={block.ffn.num_fcs}) is not re-stated."
        return None

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn = block.attn
        parted = attn.bias == "qv_bias"
        return {
            "norm1": block.norm1,
            "qkv": StatedLinear((attn.qkv, "weight"), (attn, "q_bias"), None, (attn, "v_bias")) if parted else attn.qkv,
            "proj": attn.proj,
            "norm2": block.norm2,
            "fc1": block.ffn.layers[0][0],
            "act": block.ffn.layers[0][1],
            "fc2": block.ffn.layers[1],
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Parameter | None, nn.Parameter | None]:
        return block.gamma_1, block.gamma_2

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor, shared: Tensor | None) -> Tensor:
        attn = self.attn
        batch, tokens, _ = x.shape
        # Without biases of its own the module is called, and its hooks run the site.
        qkv = self.peft_sites["qkv"].run(self.site_qkv, x) if attn.bias == "qv_bias" else attn.qkv(x)
        q, k, v = qkv.reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = functools.partial(self.site_scores, biases=[b for b in (self.site_bias(), shared) if b is not None])
        q, k, v, _ = self.site_core(q, k, v, x, scores)
        y = attn.attn_drop(scores(q, k).softmax(dim=-1)) @ v
        y = attn.proj_drop(attn.proj(y.transpose(1, 2).reshape(batch, tokens, -1)))
        return y if self.gamma_1 is None else self.gamma_1 * y

    def site_qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values ``(B, tokens, 3 C)``; keys have no bias."""
        attn = self.attn
        bias = torch.cat((attn.q_bias, torch.zeros_like(attn.v_bias, requires_grad=False), attn.v_bias))
        return F.linear(x, attn.qkv.weight, bias)

    def site_bias(self) -> Tensor | None:
        """The bias of the block's own table ``(1, heads, N, N)``."""
        attn = self.attn
        if attn.relative_position_bias_table is None:
            return None
        length = len(attn.relative_position_index)
        bias = attn.relative_position_bias_table[attn.relative_position_index.view(-1)].view(length, length, -1)
        return bias.permute(2, 0, 1).contiguous().unsqueeze(0)

    def site_scores(self, q: Tensor, k: Tensor, biases: Sequence[Tensor]) -> Tensor:
        scores = q * self.attn.scale @ k.transpose(-2, -1)
        for bias in biases:
            scores = scores + pad_bias(bias, *scores.shape[-2:], self.peft_flow.own_prefix)
        return scores

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        y = self.ffn(x)
        return y if self.gamma_2 is None else self.gamma_2 * y

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def forward(self, x: Tensor, rel_pos_bias: Tensor | None = None) -> Tensor:
        return self.site_forward(x, shared=rel_pos_bias)


@HOSTS.register_module(name="mmpretrain.BEiTViT")
class MMPretrainBEiT(MMPretrainViT):
    """mmpretrain ``BEiTViT``."""

    targets = ("mmpretrain.models.backbones.beit.BEiTViT",)

    def describe(self) -> None:
        super().describe()
        self.pools_map = self.backbone.out_type == "avg_featmap"
