"""The image encoder of transformers' SAM 2, a Hiera."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.windows.pooling import PoolingWindowBlock, add_stages
from vpeft.core.backbones.windows.unshifted import CalledAttention
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="transformers.Sam2MultiScaleBlock")
class HFSam2Block(PoolingWindowBlock):
    """``Sam2MultiScaleBlock``."""

    site_targets = ("transformers.models.sam2.modeling_sam2.Sam2MultiScaleBlock",)
    site_parts = {"attn": ("{0}.Sam2MultiScaleAttention",), "mlp": ("{0}.Sam2FeedForward",)}
    site_inner = {"attn": CalledAttention}

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if len(block.mlp.layers) or block.mlp.sigmoid_output:
            return "an MLP of other than two linears is not re-stated."
        return None

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
            "fc1": block.mlp.proj_in,
            "act": block.mlp.activation,
            "fc2": block.mlp.proj_out,
            **({"skip": block.proj} if block.dim != block.dim_out else {}),
        }

    @property
    def site_stride(self) -> tuple[int, int] | None:
        return self.query_stride

    def site_pool(self, x: Tensor) -> Tensor:
        from transformers.models.sam2.modeling_sam2 import do_pool

        return do_pool(x, self.query_stride)

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.layer_norm1(x)

    def site_window(self, x: Tensor, window: tuple[int, ...], **given: Any) -> Tensor:
        # As the library records it, a map; prompts have no place there.
        def compute(x: Tensor) -> Tensor:
            y = PoolingWindowBlock.site_window(self, x, window, **given)
            stride = self.site_stride or (1, 1)
            pooled = tuple(size // by for size, by in zip(window, stride, strict=True))
            return y if self.peft_flow.prefix else y.unflatten(1, pooled)

        y = self.attn(x, compute=compute)
        return y if y.dim() == 3 else y.flatten(1, 2)

    def site_mix(self, q: Tensor, k: Tensor, v: Tensor, **given: Any) -> Tensor:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
        from transformers.models.sam2.modeling_sam2 import eager_attention_forward

        attn, name = self.attn, self.attn.config._attn_implementation
        interface = eager_attention_forward if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        given = {"attention_mask": None, "is_causal": attn.is_causal, "scaling": attn.scale, **given}
        return interface(attn, q, k, v, **given)[0].flatten(2)

    def site_drop1(self, x: Tensor) -> Tensor:
        return x

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.layer_norm2(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return x

    def forward(self, hidden_states: Tensor, **given: Any) -> Tensor:
        return super().forward(hidden_states, **given)


@HOSTS.register_module(name="transformers.Sam2HieraDetModel")
class HFSam2(Host):
    """``Sam2HieraDetModel``, as ``Sam2VisionModel`` and ``Sam2Model`` hold it; it gives the map of every stage."""

    targets = ("transformers.models.sam2.modeling_sam2.Sam2HieraDetModel",)

    def describe(self) -> None:
        backbone = self.backbone
        add_stages(self, backbone.blocks, backbone.stage_ends)
        self.embeds(backbone.patch_embed.projection)
        self.special = {"pos_embed": "pos_embed", "pos_embed_window": "pos_embed"}
        self.outputs = list(backbone.stage_ends)
        self.reads_map = True
        self.flat_stream = False
