"""timm's MultiScaleVit (MViT v2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.shared.multiscale import PooledBlock
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.MViTBlock")
class TimmMViTBlock(PooledBlock):
    """``MultiScaleBlock`` of ``mvitv2`` that widens in its attention."""

    site_targets = ("timm.models.mvitv2.MultiScaleBlock",)
    site_parts = {"attn": ("{0}.MultiScaleAttention",), "mlp": ("timm.layers.mlp.Mlp",)}

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if block.shortcut_proj_mlp is not None:
            return "a block that widens in its MLP (expand_attn=False) has no one width, and is not re-stated."
        if block.shortcut_pool_attn is not None and block.shortcut_proj_attn is None:
            return "a block that pools its map without another width is not re-stated."
        return None

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        attn, mlp, skip = block.attn, block.mlp, block.shortcut_proj_attn
        modules = {"norm1": block.norm1, "qkv": attn.qkv, "proj": attn.proj}
        modules |= {} if skip is None else {"skip": skip}
        return {**modules, "norm2": block.norm2, "fc1": mlp.fc1, "act": mlp.act, "fc2": mlp.fc2}

    @property
    def site_tables(self) -> list[Tensor]:
        return [self.attn.rel_pos_h, self.attn.rel_pos_w] if self.attn.rel_pos_type == "spatial" else []

    def site_places_of(self, q_size: int, k_size: int, table: Tensor) -> Tensor:
        q_step, k_step = max(k_size / q_size, 1.0), max(q_size / k_size, 1.0)
        q_places = torch.arange(q_size, device=table.device).unsqueeze(-1) * q_step
        k_places = torch.arange(k_size, device=table.device).unsqueeze(0) * k_step
        return table[(q_places - k_places + (k_size - 1) * k_step).long()]

    def site_identity(self, name: str, x: Tensor, n: Tensor) -> Tensor:
        if name != "attn" or self.shortcut_proj_attn is None:
            return x
        x = self.shortcut_proj_attn(n)
        return x if self.shortcut_pool_attn is None else self.site_beside(x, self.site_shrink)

    def site_shrink(self, x: Tensor) -> Tensor:
        """The map's tokens on the identity path, pooled."""
        x = self.shortcut_pool_attn(x.unflatten(1, self.peft_flow.grid).permute(0, 3, 1, 2).contiguous())
        return x.flatten(2).transpose(1, 2)

    def site_positions(self, scores: Tensor, q: Tensor, q_grid: tuple[int, ...], k_grid: tuple[int, ...]) -> Tensor:
        area, keys = math.prod(q_grid), math.prod(k_grid)
        queries = q[:, :, -area:].reshape(*q.shape[:2], *q_grid, -1)
        rows, columns = (self.site_places_of(*one) for one in zip(q_grid, k_grid, self.site_tables, strict=True))
        by_row = torch.einsum("byhwc,hkc->byhwk", queries, rows).unsqueeze(-1)
        by_column = torch.einsum("byhwc,wkc->byhwk", queries, columns).unsqueeze(-2)
        inside = scores[:, :, -area:, -keys:].view(len(q), -1, *q_grid, *k_grid)
        scores[:, :, -area:, -keys:] = (inside + by_row + by_column).view(len(q), -1, area, keys)
        return scores

    def site_residual(self, y: Tensor, q: Tensor) -> Tensor:
        return y + q if self.attn.residual_pooling else y

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)

    def forward(self, x: Tensor, feat_size: Sequence[int]) -> tuple[Tensor, list[int]]:
        return self.site_forward(x, tuple(feat_size)), [*self.peft_flow.grid]


@HOSTS.register_module(name="timm.MultiScaleVit")
class TimmMViT(Host):
    """timm ``MultiScaleVit``."""

    targets = ("timm.models.mvitv2.MultiScaleVit",)

    def describe(self) -> None:
        backbone = self.backbone
        for stage, module in enumerate(backbone.stages):
            self.add_blocks(module.blocks, f"stages.{stage}.blocks", stage)
        self.embeds(backbone.patch_embed.proj)
        self.prefix = backbone.num_prefix_tokens
        self.special = {"cls_token": "cls_token"}
        if backbone.pos_embed is not None:
            self.positions("pos_embed", self.prefix)
        self.pools_map = backbone.global_pool == "avg"
        self.add_sites(norm_0=backbone.norm)

    def heads(self) -> list[str]:
        return ["head.fc"]
