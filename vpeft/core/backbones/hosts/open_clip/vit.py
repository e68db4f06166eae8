"""open_clip's VisionTransformer, the image tower of its CLIP and CoCa."""

from __future__ import annotations

from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.shared.multihead import MultiheadBlock
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="open_clip.ResidualAttentionBlock")
class OpenCLIPBlock(MultiheadBlock):
    """``ResidualAttentionBlock`` without mask or cross attention, as the image tower has it."""

    site_targets = ("open_clip.transformer.ResidualAttentionBlock",)
    any_tokens = True
    site_parts = {"attn": ("torch.nn.modules.activation.MultiheadAttention",)}
    queries_apart = True

    @classmethod
    def site_refuses(cls, block: nn.Module) -> str | None:
        if hasattr(block, "ln_1_kv"):
            return "cross attention (is_cross_attention=True) is not re-stated."
        return super().site_refuses(block)

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

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
        return tuple(None if isinstance(scale, nn.Identity) else scale for scale in (block.ls_1, block.ls_2))

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.ln_1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        return self.ls_1(self.site_torch(x))

    def site_drop1(self, x: Tensor) -> Tensor:
        return x

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.ln_2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ls_2(self.mlp(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return x

    def forward(
        self, q_x: Tensor, k_x: Tensor | None = None, v_x: Tensor | None = None, attn_mask: Tensor | None = None
    ) -> Tensor:
        if k_x is not None or v_x is not None or attn_mask is not None:
            raise UserError("other keys and values, or an attention mask, are not re-stated by this host: leave them.")
        if self.attn.batch_first:
            return self.site_forward(q_x)
        return self.site_forward(q_x.transpose(0, 1)).transpose(0, 1)


@HOSTS.register_module(name="open_clip.VisionTransformer")
class OpenCLIPViT(Host):
    """open_clip ``VisionTransformer``; the projection into the common space of image and text is a part of it."""

    targets = ("open_clip.transformer.VisionTransformer",)

    def describe(self) -> None:
        backbone = self.backbone
        if not isinstance(backbone.patch_dropout, nn.Identity):
            raise UserError("patch dropout (patch_dropout > 0) takes tokens off the map: set it to 0.")
        if getattr(backbone, "attn_pool_contrastive", None) is not None:
            raise UserError("two poolings by attention (attentional_pool='parallel' or 'cascade') are not stated.")
        self.add_blocks(backbone.transformer.resblocks, "transformer.resblocks")
        self.embeds(backbone.conv1)
        self.prefix = 1
        self.special = {"class_embedding": "cls_token"}
        self.positions("positional_embedding", self.prefix)
        if backbone.proj is not None:
            self.special["proj"], self.fixed_width = "weight", True
        self.add_sites(pre_norm=backbone.ln_pre)
        self.pools_map, self.pools_tokens = backbone.pool_type == "avg", backbone.attn_pool is not None
        pooled = backbone.attn_pool is not None or backbone.final_ln_after_pool
        self.add_sites(**{"pool_norm" if pooled else "norm_0": backbone.ln_post})
