"""timm's PiT: a convolution pools the map between its stages, and a linear widens what stands before it."""

from __future__ import annotations

from torch import nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.pass_hooks import Resized
from vpeft.registry import HOSTS


@HOSTS.register_module(name="timm.PoolingVisionTransformer")
class TimmPiT(Host):
    """timm ``PoolingVisionTransformer``, of ViT's blocks; its poolings stay as they are, and its norm reads no map."""

    targets = ("timm.models.pit.PoolingVisionTransformer",)
    carries_tokens = False

    def describe(self) -> None:
        backbone = self.backbone
        for stage, part in enumerate(backbone.transformers):
            require_plain(part, "timm.models.pit.Transformer", f"transformers.{stage}")
            self.add_blocks(part.blocks, f"transformers.{stage}.blocks", stage)
        self.embeds(backbone.patch_embed.conv)
        self.prefix = backbone.num_tokens
        self.special = {"cls_token": "cls_token", "pos_embed": "pos_embed"}
        self.add_sites(pool_norm=backbone.norm)

    def adopt(self) -> None:
        super().adopt()
        pools = (part.pool.conv for part in self.backbone.transformers if part.pool is not None)
        self.hooks += [conv.register_forward_hook(Resized(self)) for conv in pools]

    def heads(self) -> list[str]:
        named = {name: getattr(self.backbone, name) for name in ("head", "head_dist")}
        return [name for name, module in named.items() if isinstance(module, nn.Linear)]
