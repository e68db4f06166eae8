"""mmseg's BEiT and MAE, whose blocks are those of mmpretrain's BEiT."""

from __future__ import annotations

from torch import Tensor

from vpeft.core.backbones.host import Host
from vpeft.registry import HOSTS


@HOSTS.register_module(name="mmseg.BEiT")
class MMSegBEiT(Host):
    """mmseg ``BEiT`` and ``MAE``; their outputs are maps for a decode head, one for each of their ``out_indices``."""

    targets = ("mmseg.models.backbones.beit.BEiT", "mmseg.models.backbones.mae.MAE")

    def describe(self) -> None:
        backbone = self.backbone
        self.add_blocks(backbone.layers, "layers")
        self.embeds(backbone.patch_embed.projection, backbone.patch_embed)
        self.prefix, self.reads_map = 1, True
        self.outputs = sorted(i % len(backbone.layers) for i in backbone.out_indices)
        self.special = {"cls_token": "cls_token"}
        if hasattr(backbone, "pos_embed"):
            self.positions("pos_embed", self.prefix)
        self.add_sites(patch_norm=backbone.patch_embed.norm, norm_0=backbone.norm1 if backbone.final_norm else None)

    def map_size(self, inputs: Tensor, embedded: tuple[Tensor, tuple[int, int]]) -> tuple[int, int]:
        return embedded[1]
