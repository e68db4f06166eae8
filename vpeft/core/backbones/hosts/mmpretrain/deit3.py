"""mmpretrain's DeiT3."""

from __future__ import annotations

from torch import Tensor, nn

from vpeft.core.backbones.hosts.mmpretrain.vit import MMPretrainViT, ViTBlock
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmpretrain.DeiT3TransformerEncoderLayer")
class DeiT3Block(ViTBlock):
    """``DeiT3TransformerEncoderLayer``, in which ``ln1`` stands before both branches; ``ln2`` never runs.

    A norm that is called twice is no module of a site: what is placed at ``norm1`` acts before the attention alone,
    what is placed at ``norm2`` before the MLP.
    """

    site_targets = ("mmpretrain.models.backbones.deit3.DeiT3TransformerEncoderLayer",)
    site_parts = {"attn": ("mmpretrain.models.utils.attention.MultiheadAttention",), "ffn": ("{0}.DeiT3FFN",)}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | None]:
        return {**ViTBlock.site_modules(block), "norm1": None, "norm2": None}

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.peft_sites["norm1"].run(self.ln1, x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.peft_sites["norm2"].run(self.ln1, x)


@HOSTS.register_module(name="mmpretrain.DeiT3")
class MMPretrainDeiT3(MMPretrainViT):
    """mmpretrain ``DeiT3``, whose positions are of the map alone."""

    targets = ("mmpretrain.models.backbones.deit3.DeiT3",)

    def describe(self) -> None:
        if self.backbone.out_type == "avg_featmap":
            raise UserError("out_type='avg_featmap' of DeiT3 asks for a norm that it does not have: take another.")
        super().describe()
        for number in range(len(self.blocks)):
            self.special |= {f"layers.{number}.ln2.{name}": "unused" for name in ("weight", "bias")}
