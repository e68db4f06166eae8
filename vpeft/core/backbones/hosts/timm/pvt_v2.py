"""timm's PyramidVisionTransformerV2 (PVT v2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.shared.pyramid import PyramidBlock, PyramidHost
from vpeft.core.backbones.sites.stated_linear import StackedLinear
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.PVTv2Block")
class TimmPVTBlock(PyramidBlock):
    """``Block`` of ``pvt_v2``, with strided or linear attention."""

    site_targets = ("timm.models.pvt_v2.Block",)
    site_parts = {"attn": ("{0}.Attention",), "mlp": ("{0}.MlpWithDepthwiseConv",)}
    free_keys = True

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StackedLinear]:
        return {
            "norm1": block.norm1,
            "qkv": StackedLinear(block.attn.q, block.attn.kv),
            "proj": block.attn.proj,
            "norm2": block.norm2,
            "fc1": block.mlp.fc1,
            "act": block.mlp.act,
            "fc2": block.mlp.fc2,
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        attn = self.attn
        batch, tokens, dim = x.shape
        q, kv = self.site_linears("qkv", x, x if attn.sr is None else self.site_beside(x, self.site_reduce))
        q = q.reshape(batch, tokens, attn.num_heads, -1).permute(0, 2, 1, 3)
        k, v = kv.reshape(batch, -1, 2, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k, v, _ = self.site_core(q, k, v, x)
        if attn.fused_attn:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=attn.attn_drop.p if attn.training else 0.0)
        else:
            y = attn.attn_drop(self.site_scores(q, k).softmax(dim=-1)) @ v
        return attn.proj_drop(attn.proj(y.transpose(1, 2).reshape(batch, tokens, dim)))

    def site_reduce(self, tokens: Tensor) -> Tensor:
        """Tokens of the map to those of the reduced map."""
        attn = self.attn
        spatial = self.site_map(tokens)
        spatial = attn.sr(spatial if attn.pool is None else attn.pool(spatial))
        reduced = attn.norm(spatial.reshape(*spatial.shape[:2], -1).permute(0, 2, 1))
        return reduced if attn.act is None else attn.act(reduced)

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q * self.attn.scale @ k.transpose(-2, -1)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        mlp = self.mlp
        hidden = self.site_beside(mlp.fc1(x), self.site_convolve)
        return mlp.drop(mlp.fc2(mlp.drop(mlp.act(hidden))))

    def site_convolve(self, tokens: Tensor) -> Tensor:
        """The convolution inside the MLP, on the tokens of the map."""
        batch, _, dim = tokens.shape
        spatial = tokens.transpose(1, 2).view(batch, dim, *self.peft_flow.hw)
        return self.mlp.dwconv(self.mlp.relu(spatial)).flatten(2).transpose(1, 2)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)

    def forward(self, x: Tensor, feat_size: tuple[int, int]) -> Tensor:
        return self.site_forward(x, feat_size)


@HOSTS.register_module(name="timm.PyramidVisionTransformerV2")
class TimmPVT(PyramidHost):
    """timm ``PyramidVisionTransformerV2``."""

    targets = ("timm.models.pvt_v2.PyramidVisionTransformerV2",)

    def describe(self) -> None:
        backbone = self.backbone
        for stage, module in enumerate(backbone.stages):
            embed = module.downsample if stage else backbone.patch_embed
            self.add_stage(module.blocks, f"stages.{stage}.blocks", embed.proj, embed.norm, module.norm)
        self.pools_map = True

    def resize_head(self, width: int) -> None:
        plain = self.backbone.head
        if isinstance(plain, nn.Linear) and plain.in_features != width:
            self.plain_heads["head"] = plain
            self.backbone.head = nn.Linear(width, plain.out_features).to(plain.weight)

    def heads(self) -> list[str]:
        return ["head"]
