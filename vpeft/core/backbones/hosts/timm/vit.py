"""timm's VisionTransformer, with its distilled and its hybrid form."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import full_name, require_plain
from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.timm.attention import attended_difference, mask_for, masked
from vpeft.core.backbones.hosts.timm.mlp import MLPS, mlp_modules, run_mlp
from vpeft.core.backbones.hosts.timm.resizing import TimmBackbone
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS

_EMBEDDINGS = ("timm.layers.patch_embed.PatchEmbed", "timm.layers.hybrid_embed.HybridEmbed")


@BLOCKS.register_module(name="timm.Block")
class TimmViTBlock(SiteBlock):
    """``Block`` with ``Attention``, which may be a difference of two; its MLP may be gated."""

    site_targets = ("timm.models.vision_transformer.Block",)
    site_parts = {"attn": ("timm.layers.attention.Attention", "timm.layers.diff_attention.DiffAttention"), "mlp": MLPS}
    any_tokens = True
    queries_apart = True

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear | None]:
        return {
            "norm1": block.norm1,
            "qkv": block.attn.qkv,
            "proj": block.attn.proj,
            "norm2": block.norm2,
            **mlp_modules(block.mlp),
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
        return tuple(None if isinstance(scale, nn.Identity) else scale for scale in (block.ls1, block.ls2))

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.ls1(self.site_attend(x, mask))

    def site_attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The attention's output, without LayerScale."""
        attn = self.attn
        if hasattr(attn, "lambda_init"):
            return self.site_differ(x, mask)
        batch, tokens, _ = x.shape
        gate = attn.gate(x).sigmoid() if attn.gate is not None else None
        qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = functools.partial(self.site_scores, mask=mask)
        q, k, v, _ = self.site_core(attn.q_norm(q), attn.k_norm(k), v, x, scores)
        if attn.fused_attn:
            seen = mask_for(mask, q.shape[2], k.shape[2], self.peft_flow.own_prefix)
            drop = attn.attn_drop.p if attn.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=drop)
        else:
            y = attn.attn_drop(scores(q, k).softmax(dim=-1)) @ v
        y = attn.norm(y.transpose(1, 2).reshape(batch, tokens, attn.attn_dim))
        if gate is not None:
            y = y * gate
        return attn.proj_drop(attn.proj(y))

    def site_differ(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The same of an attention whose heads are the difference of two; both halves of a head lie side by side."""
        attn, (batch, tokens, dim) = self.attn, x.shape
        q, k, v = attn.qkv(x).chunk(3, dim=2)
        q, k = (part.reshape(batch, tokens, 2 * attn.num_heads, -1).transpose(1, 2) for part in (q, k))
        q, k = (joined(part) for part in (attn.q_norm(q), attn.k_norm(k)))
        v = v.reshape(batch, tokens, attn.num_heads, -1).transpose(1, 2)
        scores = functools.partial(self.site_scores, mask=mask)
        q, k, v, _ = self.site_core(q, k, v, x, scores)
        y = attended_difference(attn, q, k, v, scores, mask, self.peft_flow.own_prefix)
        return attn.proj_drop(attn.proj(attn.norm(y.transpose(1, 2).reshape(batch, tokens, dim))))

    def site_scores(self, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        if hasattr(self.attn, "lambda_init"):  # two of every head
            q, k = (part.unflatten(-1, (2, -1)).transpose(2, 3).flatten(1, 2) for part in (q, k))
        scores = (q * self.attn.scale) @ k.transpose(-2, -1)
        return masked(scores, mask_for(mask, q.shape[2], k.shape[2], self.peft_flow.own_prefix))

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.ls2(run_mlp(self, self.mlp, x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        refuse_causal(is_causal)
        return self.site_forward(x, mask=attn_mask)


def joined(x: Tensor) -> Tensor:
    """The two halves of each head ``(B, 2 heads, N, width)`` side by side, ``(B, heads, N, 2 width)``."""
    return x.unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)


def refuse_causal(is_causal: bool) -> None:
    """Refuse what only a causal pass does.

    Raises:
        UserError: It is one.
    """
    if is_causal:
        raise UserError("a causal pass (is_causal) is not re-stated by this host: leave it out, or give an attn_mask.")


@BLOCKS.register_module(name="timm.ResPostBlock")
class TimmResPostBlock(TimmViTBlock):
    """``ResPostBlock``: its norms stand behind the branches, in the place of a LayerScale."""

    site_targets = ("timm.models.vision_transformer.ResPostBlock",)
    norm_behind = True

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[None, None]:
        return None, None

    def site_attention(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.site_attend(x, mask)

    def site_mlp(self, x: Tensor) -> Tensor:
        return run_mlp(self, self.mlp, x)


class TimmViTHost(Host):
    """What the hosts of timm's plain transformers share: embedding, prefix, positions and heads."""

    backbone_mixin = TimmBackbone

    def describe(self) -> None:
        backbone = self.backbone
        self.add_blocks(backbone.blocks, "blocks")
        self.add_embedding()
        if not isinstance(getattr(backbone, "patch_drop", None), (nn.Identity, type(None))):
            raise UserError("patch dropout (patch_drop_rate > 0) takes tokens off the map: set it to 0.")
        self.prefix = backbone.num_prefix_tokens
        self.special = {"cls_token": "cls_token", "reg_token": "cls_token", "dist_token": "cls_token"}
        if getattr(backbone, "pos_embed", None) is not None:
            self.positions("pos_embed", 0 if getattr(backbone, "no_embed_class", False) else self.prefix)
        self.pools_map = backbone.global_pool == "avg" and not getattr(backbone, "pool_include_prefix", False)
        self.pools_tokens = getattr(backbone, "attn_pool", None) is not None
        self.add_sites(pre_norm=getattr(backbone, "norm_pre", None))
        self.add_sites(norm_0=backbone.norm, pool_norm=backbone.fc_norm)
        if "norm.0" not in self.modules:
            self.identities["norm.0"] = backbone.norm

    def add_embedding(self) -> None:
        """State the patch embedding; a hybrid's begins with a convolutional network, which stays as it is."""
        embedding = self.backbone.patch_embed
        require_plain(embedding, _EMBEDDINGS, "patch_embed")
        if full_name(type(embedding)) == _EMBEDDINGS[0]:
            self.embeds(embedding.proj, embedding)
            self.add_sites(patch_norm=embedding.norm)
            return
        convolutions = [m for m in embedding.modules() if isinstance(m, nn.Conv2d)]
        self.embeds(convolutions[-1], embedding)
        self.patch_size, self.in_channels = embedding.feat_ratio(as_scalar=False), embedding.in_chans

    def map_size(self, inputs: Tensor, embedded: Tensor) -> tuple[int, int]:
        return self.backbone.patch_embed.dynamic_feat_size(torch.Size(inputs.shape[-2:]))

    def resize_head(self, width: int) -> None:
        for name in self.heads():
            plain = getattr(self.backbone, name)
            if isinstance(plain, nn.Linear) and plain.in_features != width:
                self.plain_heads[name] = plain
                setattr(self.backbone, name, nn.Linear(width, plain.out_features).to(plain.weight))

    def heads(self) -> list[str]:
        return [name for name in ("head", "head_dist") if hasattr(self.backbone, name)]


@HOSTS.register_module(name="timm.VisionTransformer")
class TimmViT(TimmViTHost):
    """timm ``VisionTransformer`` and ``VisionTransformerDistilled``, which has a second token and a second head."""

    targets = (
        "timm.models.vision_transformer.VisionTransformer",
        "timm.models.deit.VisionTransformerDistilled",
    )
