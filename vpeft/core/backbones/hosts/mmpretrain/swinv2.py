"""mmpretrain's SwinTransformerV2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.hosts.mmpretrain.swin import MMPretrainSwin, SwinBlock
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.core.backbones.windows.shifted import CosineWindowBlock
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmpretrain.SwinBlockV2")
class SwinBlockV2(CosineWindowBlock, SwinBlock):
    """``SwinBlockV2``; its DropPath stands before the norm, and so inside the branch."""

    site_targets = ("mmpretrain.models.backbones.swin_transformer_v2.SwinBlockV2",)
    site_parts = {**SwinBlock.site_parts, "attn.w_msa": ("mmpretrain.models.utils.attention.WindowMSAV2",)}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        msa = block.attn.w_msa
        biased = msa.q_bias is not None
        stated = StatedLinear((msa.qkv, "weight"), (msa, "q_bias"), None, (msa, "v_bias")) if biased else msa.qkv
        last = {"norm3": block.norm3} if block.extra_norm else {}
        return {**SwinBlock.site_modules(block), "qkv": stated, **last}

    def site_attention(self, x: Tensor) -> Tensor:
        return self.attn.drop(super().site_attention(x))

    def site_qkv(self, x: Tensor) -> Tensor:
        msa = self.attn.w_msa
        # Without biases of its own the module is called, and its hooks run the site.
        return msa.qkv(x) if msa.q_bias is None else self.peft_sites["qkv"].run(self.site_biased, x)

    def site_biased(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side; keys have no bias."""
        msa = self.attn.w_msa
        bias = torch.cat((msa.q_bias, torch.zeros_like(msa.v_bias, requires_grad=False), msa.v_bias))
        return F.linear(x, msa.qkv.weight, bias)

    def site_drop1(self, x: Tensor) -> Tensor:
        return x

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ffn.dropout_layer(super().site_mlp(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return x

    def site_end(self, x: Tensor) -> Tensor:
        return self.norm3(x) if self.extra_norm else x


@HOSTS.register_module(name="mmpretrain.SwinTransformerV2")
class MMPretrainSwinV2(MMPretrainSwin):
    """mmpretrain ``SwinTransformerV2``."""

    targets = ("mmpretrain.models.backbones.swin_transformer_v2.SwinTransformerV2",)

    def describe(self) -> None:
        super().describe()
        self.adds_between = any(block.module.extra_norm for block in self.blocks)

    def merging(self, stage: int) -> nn.Module:
        """The patch merging that leads to a stage: the start of its own sequence."""
        return self.backbone.stages[stage].downsample
