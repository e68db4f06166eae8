"""mmaction2's VisionTransformer (VideoMAE)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="mmaction.Block")
class VideoMAEBlock(SiteBlock):
    """``Block``: the weights of qkv are used without calling it, with biases of queries and values apart."""

    site_targets = ("mmaction.models.backbones.vit_mae.Block",)
    site_parts = {"attn": ("{0}.Attention",), "mlp": ("mmcv.cnn.bricks.transformer.FFN",)}
    free_keys = True

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear]:
        attn = block.attn
        biased = hasattr(attn, "q_bias")
        return {
            "norm1": block.norm1,
            "qkv": StatedLinear((attn.qkv, "weight"), (attn, "q_bias"), None, (attn, "v_bias")) if biased else attn.qkv,
            "proj": attn.proj,
            "norm2": block.norm2,
            "fc1": block.mlp.layers[0][0],
            "act": block.mlp.layers[0][1],
            "fc2": block.mlp.layers[1],
        }

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Parameter | None, nn.Parameter | None]:
        return getattr(block, "gamma_1", None), getattr(block, "gamma_2", None)

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        attn = self.attn
        batch, tokens, _ = x.shape
        # Without biases of its own the module is called, and its hooks run the site.
        qkv = self.peft_sites["qkv"].run(self.site_qkv, x) if hasattr(attn, "q_bias") else attn.qkv(x)
        qkv = qkv.reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v, _ = self.site_core(qkv[0], qkv[1], qkv[2], x)
        weights = self.site_scores(q, k).softmax(dim=-1)
        y = (attn.attn_drop(weights) @ v).transpose(1, 2).reshape(batch, tokens, -1)
        return self.site_scale("gamma_1", attn.proj_drop(attn.proj(y)))

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q * self.attn.scale @ k.transpose(-2, -1)

    def site_qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values ``(B, tokens, 3 C)``; keys have no bias."""
        attn = self.attn
        bias = torch.cat((attn.q_bias, torch.zeros_like(attn.v_bias, requires_grad=False), attn.v_bias))
        return F.linear(x, attn.qkv.weight, bias)

    def site_scale(self, name: str, y: Tensor) -> Tensor:
        """The branch times its LayerScale, where the block has any."""
        return getattr(self, name) * y if hasattr(self, name) else y

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.site_scale("gamma_2", self.mlp.layers(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(self.mlp.dropout_layer(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.site_forward(x)


@HOSTS.register_module(name="mmaction.VisionTransformer")
class VideoMAE(Host):
    """mmaction2 ``VisionTransformer``; a clip ``(B, 3, T, H, W)`` is a map of tubelets."""

    targets = ("mmaction.models.backbones.vit_mae.VisionTransformer",)

    def describe(self) -> None:
        backbone = self.backbone
        self.add_blocks(backbone.blocks, "blocks")
        self.embeds(backbone.patch_embed.projection, backbone.patch_embed)
        if "pos_embed" in backbone._parameters:
            self.positions("pos_embed", 0)
        else:
            self.special["pos_embed"] = "pos_embed"
        self.reads_map = backbone.return_feat_map
        self.pools_map = backbone.fc_norm is not None and not self.reads_map
        places = self.identities if isinstance(backbone.norm, nn.Identity) else self.modules
        places["norm.0"] = backbone.norm
        if self.pools_map:
            self.modules["pool_norm"] = backbone.fc_norm
        elif backbone.fc_norm is not None:
            self.special |= {f"fc_norm.{name}": "unused" for name, _ in backbone.fc_norm.named_parameters()}

    def map_size(self, inputs: Tensor, embedded: tuple[Tensor, tuple[int, int]]) -> tuple[int, ...]:
        kernel = self.modules["patch_embed"].kernel_size
        return tuple(size // step for size, step in zip(inputs.shape[-3:], kernel, strict=True))
