"""mmseg's MixVisionTransformer (SegFormer's MiT)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpeft.core.backbones.shared.multihead import MultiheadBlock
from vpeft.core.backbones.shared.pyramid import PyramidBlock, PyramidHost
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmseg.MixTransformerEncoderLayer")
class MMSegMiTBlock(MultiheadBlock, PyramidBlock):
    """``TransformerEncoderLayer`` of MiT: torch's attention, and an MLP of 1x1 convolutions."""

    site_targets = ("mmseg.models.backbones.mit.TransformerEncoderLayer",)
    site_parts = {
        "attn": ("{0}.EfficientMultiheadAttention",),
        "attn.attn": ("torch.nn.modules.activation.MultiheadAttention",),
        "ffn": ("{0}.MixFFN",),
    }
    site_multihead, site_weighs, site_packs = "attn.attn", True, False

    @classmethod
    def site_modules(cls, block: nn.Module) -> dict[str, nn.Module | StatedLinear | None]:
        fc1, *_, fc2, _ = block.ffn.layers
        return {
            "norm1": block.norm1,
            **cls.site_projections(block),
            "norm2": block.norm2,
            "fc1": fc1,
            "act": None,
            "fc2": fc2,
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        kv = self.site_beside(x, self.site_reduce) if self.attn.sr_ratio > 1 else x
        return self.attn.proj_drop(self.site_torch(x, kv))

    def site_call(self, x: Tensor, kv: Tensor) -> Tensor:
        # The queries are another tensor than the keys, also where both are the stream: by that torch computes.
        kv = kv.transpose(0, 1)
        return self.site_msa(x.transpose(0, 1), kv, kv)[0].transpose(0, 1)

    def site_reduce(self, tokens: Tensor) -> Tensor:
        """Tokens of the map to those of the reduced map."""
        spatial = self.attn.sr(self.site_map(tokens))
        return self.attn.norm(spatial.flatten(2).transpose(1, 2).contiguous())

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.attn.dropout_layer(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        fc1, *convolution, _, drop, fc2, _ = self.ffn.layers
        first = self.peft_flow.prefix
        if x.dim() == 2:  # some tokens alone
            return self.site_mlp(x.unsqueeze(0)).squeeze(0)
        if x.shape[1] == math.prod(self.peft_flow.hw):
            hidden = fc1(self.site_map(x))
            hidden = convolution[0](hidden) if convolution else hidden
            return drop(fc2(drop(self.site_act(hidden)))).flatten(2).transpose(1, 2).contiguous()
        # With tokens off the map the 1x1 convolutions see a row of all tokens.
        hidden = fc1(x.transpose(1, 2).unsqueeze(2))
        if convolution:
            spatial = convolution[0](hidden[..., first:].reshape(*hidden.shape[:2], *self.peft_flow.hw))
            hidden = torch.cat((hidden[..., :first], spatial.flatten(2).unsqueeze(2)), dim=-1)
        return drop(fc2(drop(self.site_act(hidden)))).squeeze(2).transpose(1, 2)

    def site_act(self, hidden: Tensor) -> Tensor:
        """The activation, on ``(B, C, *, *)``; what is placed there sees tokens."""
        site, act = self.peft_sites["act"], self.ffn.layers[-4]
        if not site.placed(*site.allowed):
            return act(hidden)
        return site.run(act, hidden.flatten(2).transpose(1, 2)).transpose(1, 2).view(hidden.shape)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.ffn.dropout_layer(x)

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            # Not only where x needs a gradient: over a frozen first block the modules inside need theirs.
            return checkpoint(self.site_forward, x, hw_shape, use_reentrant=False)
        return self.site_forward(x, hw_shape)


@HOSTS.register_module(name="mmseg.MixVisionTransformer")
class MMSegMiT(PyramidHost):
    """mmseg ``MixVisionTransformer``; its outputs are maps for a decode head, one for each of its ``out_indices``."""

    targets = ("mmseg.models.backbones.mit.MixVisionTransformer",)

    def describe(self) -> None:
        for stage, layer in enumerate(self.backbone.layers):
            embed, _, norm = layer
            self.add_stage(self.stage_blocks(layer), f"layers.{stage}.1", embed.projection, embed.norm, norm)
        last = self.blocks[-1].stage
        if last not in self.backbone.out_indices:
            raise UserError(
                f"out_indices={self.backbone.out_indices} leaves out the last stage, whose blocks would be adapted for "
                f"nothing: add {last}, or build the backbone with num_stages={max(self.backbone.out_indices) + 1}."
            )
        self.outputs = [self.stage_end(stage).index for stage in sorted(self.backbone.out_indices)]
        self.reads_map = True

    def stage_blocks(self, layer: nn.ModuleList) -> Iterable[nn.Module]:
        """The blocks of a stage."""
        return layer[1]
