"""timm's Hiera."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.windows.pooling import add_stages
from vpeft.core.backbones.windows.units import MaskUnitBlock, MaskUnitHost
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.HieraBlock")
class TimmHieraBlock(MaskUnitBlock):
    """``HieraBlock``."""

    site_targets = ("timm.models.hiera.HieraBlock",)
    site_parts = {"attn": ("{0}.MaskUnitAttention",), "mlp": ("timm.layers.mlp.Mlp",)}

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attn.heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        mlp = {"norm2": block.norm2, "fc1": block.mlp.fc1, "act": block.mlp.act, "fc2": block.mlp.fc2}
        skip = {} if block.proj is None else {"skip": block.proj}
        return {"norm1": block.norm1, "qkv": block.attn.qkv, "proj": block.attn.proj, **mlp, **skip}

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
        return tuple(None if isinstance(scale, nn.Identity) else scale for scale in (block.ls1, block.ls2))

    @property
    def site_stride(self) -> int:
        return self.attn.q_stride

    @property
    def site_widens(self) -> bool:
        return self.do_expand

    def site_expand(self, x: Tensor, n: Tensor) -> Tensor:
        if self.proj is not None:
            return super().site_expand(x, n)
        first = self.peft_flow.prefix
        own, x = x[:, :first], x[:, first:]
        parts = x.view(len(x), self.site_stride, -1, x.shape[-1])
        x = torch.cat([parts.amax(dim=1), parts.mean(dim=1)], dim=-1)
        return torch.cat((own.repeat(1, 1, 2), x), dim=1) if first else x

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        return self.ls1(self.site_attend(x, **given))

    def site_mix(self, q: Tensor, k: Tensor, v: Tensor, **given: Any) -> Tensor:
        if not self.attn.use_mask_unit_attn:  # the whole map: as one, in memory too, which chooses the kernel
            return self._mix(*(part.squeeze(2).contiguous() for part in (q, k, v))).unsqueeze(2)
        return self._mix(q, k, v)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.attn.fused_attn:
            return F.scaled_dot_product_attention(q, k, v)
        return self.site_scores(q, k).softmax(dim=-1) @ v

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ls2(self.mlp(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.site_forward(x)


@HOSTS.register_module(name="timm.Hiera")
class TimmHiera(MaskUnitHost):
    """timm ``Hiera``; the norm of its head reads pooled features."""

    targets = ("timm.models.hiera.Hiera",)

    def describe(self) -> None:
        backbone = self.backbone
        if len(backbone.patch_stride) != 2:
            raise UserError(f"patches of {len(backbone.patch_stride)} axes are not re-stated: images alone are.")
        add_stages(self, backbone.blocks, backbone.stage_ends)
        self.embeds(backbone.patch_embed.proj)
        self.steps = tuple(tuple(step) for step in backbone.unroll.schedule)
        self.special = {"pos_embed": "pos_embed", "pos_embed_win": "pos_embed"}
        if backbone.pos_embed_win is None:
            self.positions("pos_embed", 0)
        self.pools_map = backbone.head.pool_type == "avg"
        self.add_sites(pool_norm=backbone.head.norm)

    def heads(self) -> list[str]:
        head = self.backbone.head
        return [
            f"head.{name}" for name in ("pre_logits", "fc") if list(getattr(head, name, nn.Identity()).parameters())
        ]
