"""timm's NaFlexVit: images of any extents, as pixels or as patches that are padded to one number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.passes import in_program
from vpeft.errors import UserError
from vpeft.registry import HOSTS


@HOSTS.register_module(name="timm.NaFlexVit")
class TimmNaFlexVit(Host):
    """timm ``NaFlexVit``, of the blocks of ViT or of EVA; a mask hides padding."""

    targets = ("timm.models.naflexvit.NaFlexVit",)

    def describe(self) -> None:
        backbone, embeds = self.backbone, self.backbone.embeds
        self.add_blocks(backbone.blocks, "blocks")
        require_plain(embeds, "timm.models.naflexvit.NaFlexEmbeds", "embeds")
        if backbone.patch_drop is not None:
            raise UserError("patch dropout (patch_drop_rate > 0) takes tokens off the map: set it to 0.")
        self.modules["patch_embed"], self.embedding = embeds.proj, embeds
        self.patch_size, self.in_channels = tuple(embeds.patch_size), embeds.in_chans
        self.add_sites(patch_norm=embeds.norm, pre_norm=backbone.norm_pre)
        self.prefix = backbone.num_prefix_tokens
        self.special = {"embeds.cls_token": "cls_token", "embeds.reg_token": "cls_token"}
        self.special |= {f"embeds.pos_embed{axis}": "pos_embed" for axis in ("", "_y", "_x")}
        if embeds.pos_embed is not None and not embeds.pos_embed_use_grid_sample:
            self.positions("embeds.pos_embed", 0)  # resized so that what all its rows have is left as it is
        self.pools_map = backbone.global_pool == "avg" and not backbone.pool_include_prefix
        self.pools_tokens = backbone.attn_pool is not None
        self.add_sites(norm_0=backbone.norm, pool_norm=backbone.fc_norm)
        if "norm.0" not in self.modules:
            self.identities["norm.0"] = backbone.norm

    def seen(
        self,
        args: tuple[Any, ...],
        embedded: tuple[Tensor, tuple[int, int] | None],
        patch_coord: Tensor | None = None,
        patch_valid: Tensor | None = None,
    ) -> tuple[int, ...]:
        """Extents of the map, none where images differ in them or are padded."""
        if args[0].dim() == 5 and self.embedding.enable_patch_interpolator:
            site = self.sites["patch_embed"]
            if site.placed(*site.allowed):
                raise UserError(
                    f"{site.entries[0].key} stands at the patch embedding, whose weights are resized for patches of "
                    "another size and not called: give flat patches (B, N, p * p * C), or take another method."
                )
        if patch_coord is None:
            return tuple(embedded[1])
        if in_program() or (patch_valid is not None and not bool(patch_valid.all())):
            return ()
        height, width = (int(last) + 1 for last in patch_coord[0].amax(0))
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places = torch.stack((rows, columns), dim=-1).flatten(0, 1).to(patch_coord)
        whole = places.shape == patch_coord.shape[1:] and bool((patch_coord == places).all())
        return (height, width) if whole else ()

    def heads(self) -> list[str]:
        return ["head"]
