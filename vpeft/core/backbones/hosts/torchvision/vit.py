"""torchvision's VisionTransformer."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.shared.multihead import MultiheadBlock
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="torchvision.EncoderBlock")
class TorchvisionViTBlock(MultiheadBlock):
    """``EncoderBlock``; it has dropout and no DropPath."""

    site_targets = ("torchvision.models.vision_transformer.EncoderBlock",)
    any_tokens = True
    site_parts = {
        "self_attention": ("torch.nn.modules.activation.MultiheadAttention",),
        "mlp": ("torchvision.models.vision_transformer.MLPBlock",),
    }
    site_multihead = "self_attention"
    queries_apart = True

    @classmethod
    def site_modules(cls, block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        fc1, act, _, fc2, _ = block.mlp
        return {
            "norm1": block.ln_1,
            **cls.site_projections(block),
            "norm2": block.ln_2,
            "fc1": fc1,
            "act": act,
            "fc2": fc2,
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.ln_1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        return self.dropout(self.site_torch(x))

    def site_drop1(self, x: Tensor) -> Tensor:
        return x

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.ln_2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return x

    def forward(self, input: Tensor) -> Tensor:
        return self.site_forward(input)


@HOSTS.register_module(name="torchvision.VisionTransformer")
class TorchvisionViT(Host):
    """torchvision ``VisionTransformer`` with one convolution as its patch embedding."""

    targets = ("torchvision.models.vision_transformer.VisionTransformer",)

    def describe(self) -> None:
        backbone = self.backbone
        require_plain(backbone.conv_proj, "torch.nn.modules.conv.Conv2d", "conv_proj")
        self.add_blocks(backbone.encoder.layers, "encoder.layers")
        self.embeds(backbone.conv_proj)
        self.prefix = 1
        self.special = {"class_token": "cls_token"}
        self.positions("encoder.pos_embedding", self.prefix)
        self.add_sites(norm_0=backbone.encoder.ln)

    def resize_head(self, width: int) -> None:
        plain = self.backbone.heads
        first = next((name for name, layer in plain.named_children() if isinstance(layer, nn.Linear)), None)
        if first is not None and plain.get_submodule(first).in_features != width:
            self.plain_heads["heads"] = plain
            heads = copy.deepcopy(plain)
            setattr(heads, first, nn.Linear(width, heads.get_submodule(first).out_features).to(heads[0].weight))
            self.backbone.heads = heads

    def heads(self) -> list[str]:
        return ["heads"]
