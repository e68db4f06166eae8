"""timm's CaiT."""

from __future__ import annotations

from torch import Tensor, nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.timm.pooled.class_attention import add_class_attention
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.LayerScaleBlock")
class TimmCaitBlock(SiteBlock):
    """``LayerScaleBlock`` with ``TalkingHeadAttn``: the heads are mixed before the softmax and behind it."""

    site_targets = ("timm.models.cait.LayerScaleBlock",)
    site_parts = {"attn": ("{0}.TalkingHeadAttn",), "mlp": ("timm.layers.mlp.Mlp",)}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        return {
            "norm1": block.norm1,
            "qkv": block.attn.qkv,
            "proj": block.attn.proj,
            "norm2": block.norm2,
            "fc1": block.mlp.fc1,
            "act": block.mlp.act,
            "fc2": block.mlp.fc2,
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
        return block.gamma_1, block.gamma_2

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        attn = self.attn
        batch, tokens, dim = x.shape
        qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v, _ = self.site_core(*qkv.unbind(0), x)
        weights = attn.attn_drop(mixed(attn.proj_w, self.site_scores(q, k).softmax(dim=-1)))
        y = (weights @ v).transpose(1, 2).reshape(batch, tokens, dim)
        return self.gamma_1 * attn.proj_drop(attn.proj(y))

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return mixed(self.attn.proj_l, (q * self.attn.scale) @ k.transpose(-2, -1))

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.gamma_2 * self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.site_forward(x)


def mixed(linear: nn.Module, scores: Tensor) -> Tensor:
    """Scores or weights ``(B, heads, queries, keys)`` through a linear over the heads."""
    return linear(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@HOSTS.register_module(name="timm.Cait")
class TimmCait(Host):
    """timm ``Cait``."""

    targets = ("timm.models.cait.Cait",)

    def describe(self) -> None:
        backbone = self.backbone
        self.add_blocks(backbone.blocks, "blocks")
        require_plain(backbone.patch_embed, "timm.layers.patch_embed.PatchEmbed", "patch_embed")
        self.embeds(backbone.patch_embed.proj)
        self.add_sites(patch_norm=backbone.patch_embed.norm)
        self.positions("pos_embed", 0)
        self.pools_map = backbone.global_pool == "avg"
        add_class_attention(self, "blocks_token_only")

    def heads(self) -> list[str]:
        return ["head"]
