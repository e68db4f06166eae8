"""mmaction2's UniFormerV2: blocks of CLIP on single frames, with global blocks beside them that read the whole clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import Operation
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.shared.multihead import MultiheadBlock
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.registry import BLOCKS, HOSTS

#: What the transformer holds besides its blocks: the global blocks and how their class token leaves.
_GLOBAL = ("temporal_cls_token", "balance", "dpe.", "dec.", "norm.")


@BLOCKS.register_module(name="mmaction.ResidualAttentionBlock")
class UniFormerV2Block(MultiheadBlock):
    """``ResidualAttentionBlock``; its local mixing over time, before each unit, is on the map's tokens alone."""

    site_targets = ("mmaction.models.backbones.uniformerv2.ResidualAttentionBlock",)
    site_parts = {
        "attn": ("torch.nn.modules.activation.MultiheadAttention",),
        "lmhra1": ("{0}.Local_MHRA", None),
        "lmhra2": ("{0}.Local_MHRA", None),
    }
    tokens_first = True

    @classmethod
    def site_modules(cls, block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        return {
            "norm1": block.ln_1,
            **cls.site_projections(block),
            "norm2": block.ln_2,
            "fc1": block.mlp.c_fc,
            "act": block.mlp.gelu,
            "fc2": block.mlp.c_proj,
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return turned(self.ln_1, x)

    def site_attention(self, x: Tensor) -> Tensor:
        return self.site_torch(x)

    def site_drop1(self, x: Tensor) -> Tensor:
        return turned(self.drop_path, x)  # draws for each place, not for each frame

    def site_norm2(self, x: Tensor) -> Tensor:
        return turned(self.ln_2, x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return turned(self.mlp, x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return turned(self.drop_path, x)

    def site_unit(self, name: str, norm: Operation, operation: Operation, drop: Operation, x: Tensor) -> Tensor:
        mixing = {"attn": "lmhra1", "mlp": "lmhra2"}[name]
        if hasattr(self, mixing):
            x = self.site_local(getattr(self, mixing), x)
        return super().site_unit(name, norm, operation, drop, x)

    def site_local(self, mixing: nn.Module, x: Tensor) -> Tensor:
        """The stream ``(B T, prefix + H W, C)`` with the map's tokens mixed over time."""
        first, height, width = self.peft_flow.prefix, *self.peft_flow.hw
        tokens = x.transpose(0, 1)
        clips = tokens[first:].unflatten(1, (-1, self.peft_frames)).unflatten(0, (height, width))
        clips = clips.permute(2, 4, 3, 0, 1).contiguous()
        clips = clips + self.drop_path(mixing(clips))
        mixed = clips.flatten(3).permute(3, 0, 2, 1).contiguous().flatten(1, 2)
        return torch.cat((tokens[:first], mixed)).transpose(0, 1)

    def forward(self, x: Tensor, T: int = 8) -> Tensor:
        self.peft_frames = T
        return self.site_forward(x.transpose(0, 1)).transpose(0, 1)


def turned(operation: Operation, x: Tensor) -> Tensor:
    """An operation on tokens ``(B, N, C)`` that has them before the batch in memory, as the backbone: to the bit."""
    if x.dim() == 2:  # rows: some of the tokens
        return turned(operation, x[None])[0]
    return operation(x.transpose(0, 1)).transpose(0, 1)


@HOSTS.register_module(name="mmaction.UniFormerV2")
class UniFormerV2(Host):
    """mmaction2 ``UniFormerV2``: every frame is an image of its own; the global blocks stay as they are."""

    targets = ("mmaction.models.backbones.uniformerv2.UniFormerV2",)

    def describe(self) -> None:
        backbone, transformer = self.backbone, self.backbone.transformer
        self.add_blocks(transformer.resblocks, "transformer.resblocks")
        self.embeds(backbone.conv1)
        self.prefix, self.frames_in = 1, "batch"
        names = [name for name, _ in transformer.named_parameters() if name.startswith(_GLOBAL)]
        self.special = {"class_embedding": "cls_token"} | {f"transformer.{name}": "neck" for name in names}
        self.positions("positional_embedding", self.prefix)
        self.add_sites(pre_norm=backbone.ln_pre)
        self.outputs = sorted({*transformer.return_list, len(self.blocks) - 1})

    def map_size(self, inputs: Tensor, embedded: Any) -> tuple[int, ...]:
        self.flow.folded = embedded.shape[2]
        return tuple(embedded.shape[-2:])
