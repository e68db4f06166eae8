"""The image encoder of transformers' SAM, and its copies in SAM-HQ and GOT-OCR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.shared.checkpointed import Checkpointed
from vpeft.core.backbones.windows.shifted import pad_bias
from vpeft.core.backbones.windows.unshifted import CalledAttention, MapWindowBlock, frozen_neck
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="transformers.SamVisionLayer")
class HFSamLayer(MapWindowBlock):
    """``SamVisionLayer`` with eager or fused attention."""

    site_targets = (
        "transformers.models.sam.modeling_sam.SamVisionLayer",
        "transformers.models.sam_hq.modeling_sam_hq.SamHQVisionLayer",
        "transformers.models.got_ocr2.modeling_got_ocr2.GotOcr2VisionLayer",
    )
    site_parts = {
        "attn": (
            "{0}.SamVisionAttention",
            "{0}.SamVisionSdpaAttention",
            "{0}.SamHQVisionAttention",
            "{0}.SamHQVisionSdpaAttention",
            "{0}.GotOcr2VisionAttention",
        ),
        "mlp": ("{0}.SamMLPBlock", "{0}.SamHQMLPBlock", "{0}.GotOcr2MLPBlock"),
    }
    site_inner = {"attn": CalledAttention}

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attn.num_attention_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "norm1": block.layer_norm1,
            "qkv": block.attn.qkv,
            "proj": block.attn.proj,
            "norm2": block.layer_norm2,
            "fc1": block.mlp.lin1,
            "act": block.mlp.act,
            "fc2": block.mlp.lin2,
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.layer_norm1(x)

    def site_window(self, x: Tensor, mask: Tensor | None, area: int) -> Tensor:
        return self.attn(x, compute=self.site_called)[0]

    def site_called(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """As the attention's own forward: its output, and the weights where they exist."""
        y, weights = self.site_heads_of(x)
        return self.attn.proj(y.transpose(1, 2).flatten(2)), weights

    def site_mix(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        attn = self.attn
        if "Sdpa" in attn.plain_class.__name__:
            biases = [pad_bias(bias, q.shape[-2], k.shape[-2]) for bias in self.site_positions(q)]
            bias = biases[0].unflatten(0, q.shape[:2]) if biases else None
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias), None
        scores = self.site_scores(q, k).flatten(0, 1)
        weights = F.softmax(scores, dtype=torch.float32, dim=-1).to(q.dtype)
        y = F.dropout(weights, p=attn.dropout, training=attn.training) @ v.flatten(0, 1)
        return y.unflatten(0, q.shape[:2]), weights

    def site_relative(self, q: Tensor, size: tuple[int, ...]) -> Sequence[Tensor]:
        return [self.attn.get_decomposed_rel_pos(q, self.attn.rel_pos_h, self.attn.rel_pos_w, size, size)]

    def site_drop1(self, x: Tensor) -> Tensor:
        return x

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.layer_norm2(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return x


@HOSTS.register_module(name="transformers.SamVisionEncoder")
class HFSam(Host):
    """``SamVisionEncoder``, as ``SamVisionModel`` and ``SamModel`` hold it; its convolutional neck stays as it is."""

    targets = (
        "transformers.models.sam.modeling_sam.SamVisionEncoder",
        "transformers.models.sam_hq.modeling_sam_hq.SamHQVisionEncoder",
        "transformers.models.got_ocr2.modeling_got_ocr2.GotOcr2VisionEncoder",
    )
    backbone_mixin = Checkpointed

    def describe(self) -> None:
        backbone = self.backbone
        self.add_blocks(backbone.layers, "layers")
        self.embeds(backbone.patch_embed.projection)
        self.special = frozen_neck(backbone, "neck")
        if backbone.pos_embed is not None:
            self.positions("pos_embed", 0)
        self.reads_map = True
        self.flat_stream = False
