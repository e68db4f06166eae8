"""timm's VOLO."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.hosts.timm.attention import attend, plain_scores
from vpeft.core.backbones.hosts.timm.pooled.class_attention import add_class_attention
from vpeft.registry import BLOCKS, HOSTS


class VoloBlock(SiteBlock):
    """A block of maps ``(B, H, W, C)``."""

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.mlp(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[1:3]
        return self.site_forward(x.flatten(1, 2), grid).unflatten(1, grid)


@BLOCKS.register_module(name="timm.Outlooker")
class TimmOutlooker(VoloBlock):
    """``Outlooker``: a linear gives the weights of a place's neighbours, without queries and keys."""

    site_targets = ("timm.models.volo.Outlooker",)
    site_parts = {"attn": ("{0}.OutlookAttention",), "mlp": ("timm.layers.mlp.Mlp",)}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        attn, mlp = block.attn, block.mlp
        mixer = {"norm1": block.norm1, "value": attn.v, "mix": attn.attn, "proj": attn.proj}
        return {**mixer, "norm2": block.norm2, "fc1": mlp.fc1, "act": mlp.act, "fc2": mlp.fc2}

    def site_attention(self, x: Tensor) -> Tensor:
        attn, (batch, _, dim), (height, width) = self.attn, x.shape, self.peft_flow.hw
        heads, area = attn.num_heads, attn.kernel_size**2
        values = attn.v(x).unflatten(1, (height, width)).permute(0, 3, 1, 2)
        places = math.ceil(height / attn.stride) * math.ceil(width / attn.stride)
        values = attn.unfold(values).reshape(batch, heads, dim // heads, area, places).permute(0, 1, 4, 3, 2)
        pooled = attn.pool(x.unflatten(1, (height, width)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        weights = attn.attn(pooled.flatten(1, 2)).reshape(batch, places, heads, area, area).permute(0, 2, 1, 3, 4)
        weights = attn.attn_drop((weights * attn.scale).softmax(dim=-1))
        y = (weights @ values).permute(0, 1, 4, 3, 2).reshape(batch, dim * area, places)
        y = F.fold(y, (height, width), attn.kernel_size, padding=attn.padding, stride=attn.stride)
        return attn.proj_drop(attn.proj(y.permute(0, 2, 3, 1)).flatten(1, 2))


@BLOCKS.register_module(name="timm.VOLOTransformer")
class TimmVoloBlock(VoloBlock):
    """``Transformer`` of VOLO."""

    site_targets = ("timm.models.volo.Transformer",)
    site_parts = {"attn": ("{0}.Attention",), "mlp": ("timm.layers.mlp.Mlp",)}

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        attn, mlp = {"qkv": block.attn.qkv, "proj": block.attn.proj}, block.mlp
        return {"norm1": block.norm1, **attn, "norm2": block.norm2, "fc1": mlp.fc1, "act": mlp.act, "fc2": mlp.fc2}

    def site_attention(self, x: Tensor) -> Tensor:
        attn, (batch, tokens, _) = self.attn, x.shape
        qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v, _ = self.site_core(*qkv.unbind(0), x)
        return attn.proj_drop(attn.proj(attend(attn, q, k, v, self.site_scores, None)))

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return plain_scores(self.attn, q, k)


@HOSTS.register_module(name="timm.VOLO")
class TimmVolo(Host):
    """timm ``VOLO``."""

    targets = ("timm.models.volo.VOLO",)
    carries_tokens = False

    def describe(self) -> None:
        backbone, embedding = self.backbone, self.backbone.patch_embed
        stage = 0
        for number, module in enumerate(backbone.network):
            if isinstance(module, nn.Sequential):
                self.add_blocks(module, f"network.{number}", stage)
                stage += 1
            else:
                require_plain(module, "timm.models.volo.Downsample", f"network.{number}")
                self.modules[f"downsample{stage}.reduction"] = module.proj
        self.embeds(embedding.proj, embedding)
        stem = 1 if embedding.conv is None else embedding.conv[0].stride[0]
        self.patch_size, self.in_channels = tuple(stem * size for size in self.patch_size), backbone.in_chans
        self.special["pos_embed"] = "pos_embed"
        self.pools_map = backbone.global_pool == "avg"
        self.adds_between, self.flat_stream = True, False
        add_class_attention(self, "post_network")

    def heads(self) -> list[str]:
        return [name for name in ("head", "aux_head") if getattr(self.backbone, name) is not None]
