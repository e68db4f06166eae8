"""timm's FocalNet."""

from __future__ import annotations

from torch import Tensor, nn

from vpeft.core.backbones.block import require_plain
from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.convnext import ConvNextHost
from vpeft.core.backbones.sites.layout import MAP_FIRST, Layout
from vpeft.registry import BLOCKS, HOSTS


@BLOCKS.register_module(name="timm.FocalNetBlock")
class TimmFocalBlock(SiteBlock):
    """``FocalNetBlock``: what surrounds a place, gathered by convolutions, scales it; maps ``(B, C, H, W)``."""

    site_targets = ("timm.models.focalnet.FocalNetBlock",)
    site_parts = {"modulation": ("{0}.FocalModulation",), "mlp": ("timm.layers.mlp.Mlp",)}

    @classmethod
    def site_norms_behind(cls, block: nn.Module) -> bool:
        return block.use_post_norm

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return 0

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module]:
        mixer, mlp, post = block.modulation, block.mlp, block.use_post_norm
        norm1, norm2 = (block.norm1_post, block.norm2_post) if post else (block.norm1, block.norm2)
        modules = {"norm1": norm1, "value": mixer.f, "mix": mixer.h, "proj": mixer.proj}
        return {**modules, "norm2": norm2, "fc1": mlp.fc1, "act": mlp.act, "fc2": mlp.fc2}

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
        return tuple(None if isinstance(scale, nn.Identity) else scale for scale in (block.ls1, block.ls2))

    @staticmethod
    def site_layouts(block: nn.Module) -> tuple[Layout, Layout]:
        return MAP_FIRST, MAP_FIRST

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.ls1(self.norm1_post(x)) if self.use_post_norm else self.norm1(x)

    def site_attention(self, x: Tensor) -> Tensor:
        y = self.modulation(x)
        return y if self.use_post_norm else self.ls1(y)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path1(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.ls2(self.norm2_post(x)) if self.use_post_norm else self.norm2(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        y = self.mlp(x)
        return y if self.use_post_norm else self.ls2(y)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path2(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.site_forward(x, tuple(x.shape[2:]))


@HOSTS.register_module(name="timm.FocalNet")
class TimmFocalNet(ConvNextHost):
    """timm ``FocalNet``."""

    targets = ("timm.models.focalnet.FocalNet",)

    def describe(self) -> None:
        super().describe()
        backbone, stem = self.backbone, self.backbone.stem
        self.add_stem(stem.proj, stem.norm)
        self.patch_size = stem.proj.stride
        for number, stage in enumerate(backbone.layers):
            self.add_stage(number, stage.blocks, f"layers.{number}.blocks")
            if number:
                down = stage.downsample
                require_plain(down, "timm.models.focalnet.Downsample", f"layers.{number}.downsample")
                self.between[number] = [down.proj, down.norm]
                self.add_maps(**{f"downsample{number}_norm": down.norm, f"downsample{number}_reduction": down.proj})
        self.add_maps(norm_0=backbone.norm)
        if "norm.0" not in self.modules:
            self.identities["norm.0"] = backbone.norm
            self.channels_first.add("norm.0")
            self.add_maps(pool_norm=getattr(backbone.head, "norm", None))

    def heads(self) -> list[str]:
        head = self.backbone.head
        return [
            f"head.{name}" for name in ("pre_logits", "fc") if list(getattr(head, name, nn.Identity()).parameters())
        ]
