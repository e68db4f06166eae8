"""timm's SwinTransformerV2 and SwinTransformerV2Cr."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.host import Host
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


@BLOCKS.register_module(name="timm.SwinTransformerV2CrBlock")
class TimmSwinV2CrBlock(TimmSwinV2Block):
    """``SwinTransformerV2CrBlock``: its MLP of positions gives the bias as it is, and some blocks end with a norm."""

    site_targets = ("timm.models.swin_transformer_v2_cr.SwinTransformerV2CrBlock",)
    site_parts = {"attn": ("{0}.WindowMultiHeadAttention",), "mlp": ("timm.layers.mlp.Mlp",)}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        last = {} if isinstance(block.norm3, nn.Identity) else {"norm3": block.norm3}
        return {**TimmSwinBlock.site_modules(block), **last}

    def site_window(self, x: Tensor, mask: Tensor | None) -> Tensor:
        attn = self.attn
        batch, tokens, _ = x.shape
        qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = functools.partial(self.site_scores, mask=mask)
        q, k, v, _ = self.site_core(*qkv.unbind(0), x, scores)
        weights = attn.attn_drop(scores(q, k).softmax(dim=-1))
        return attn.proj_drop(attn.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, -1)))

    def site_scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        attn = self.attn
        scores = cosine(q, k, attn.logit_scale.reshape(-1, 1, 1))
        scores = scores + pad_bias(attn._relative_positional_encodings(), *scores.shape[-2:])
        return scores if mask is None else add_mask(scores, mask)

    def site_end(self, x: Tensor) -> Tensor:
        return self.norm3(x)


@HOSTS.register_module(name="timm.SwinTransformerV2Cr")
class TimmSwinV2Cr(Host):
    """timm ``SwinTransformerV2Cr``; the norm that its head reads is the last block's own."""

    targets = ("timm.models.swin_transformer_v2_cr.SwinTransformerV2Cr",)

    def describe(self) -> None:
        backbone = self.backbone
        for stage, sequence in enumerate(backbone.stages):
            self.add_blocks(sequence.blocks, f"stages.{stage}.blocks", stage)
            if not isinstance(sequence.downsample, nn.Identity):
                self.modules[f"downsample{stage}.norm"] = sequence.downsample.norm
                self.modules[f"downsample{stage}.reduction"] = sequence.downsample.reduction
        require_plain(backbone.patch_embed, "timm.models.swin_transformer_v2_cr.PatchEmbed", "patch_embed")
        self.embeds(backbone.patch_embed.proj)
        self.pools_map = True
        self.flat_stream = False
        self.adds_between = any(not isinstance(block.module.norm3, nn.Identity) for block in self.blocks)
        self.add_sites(patch_norm=backbone.patch_embed.norm)

    def downsample_map(self, stage: int, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        return self.backbone.stages[stage].downsample(tokens.unflatten(1, grid)).flatten(1, 2)

    def heads(self) -> list[str]:
        return ["head"]
