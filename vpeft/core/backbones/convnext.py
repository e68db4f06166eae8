"""ConvNeXt: blocks without attention on maps, shared by the hosts of every library."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.layout import MAP_FIRST, MAP_LAST, Layout


class ConvNextBlock(SiteBlock):
    """``x + DP(scale(mlp(norm(dwconv x))))`` on a map ``(B, C, H, W)``, whose MLP works on ``(B, H, W, C)``.

    A mixin states ``site_modules`` with ``dwconv, norm2, fc1, act, fc2``, :meth:`site_scaled`, and what an MLP of
    1x1 convolutions needs, which stays on ``(B, C, H, W)``.
    """

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return 0

    @classmethod
    def site_layouts(cls, block: nn.Module) -> tuple[Layout, Layout]:
        return MAP_FIRST, MAP_FIRST if isinstance(cls.site_modules(block)["fc1"], nn.Conv2d) else MAP_LAST

    @property
    def site_is_first(self) -> bool:
        """The MLP works on ``(B, C, H, W)``."""
        return isinstance(self.peft_sites["fc1"].module, nn.Conv2d)

    def site_norm2(self, x: Tensor) -> Tensor:
        x = self.peft_sites["dwconv"].module(x)
        return self.peft_sites["norm2"].module(x if self.site_is_first else x.permute(0, 2, 3, 1))

    def site_mlp(self, x: Tensor) -> Tensor:
        y = self.site_hidden(x)
        if self.site_is_first:
            return self.site_scaled(y)
        return self.site_scaled(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def site_hidden(self, x: Tensor) -> Tensor:
        """The MLP, without LayerScale."""
        fc1, act, fc2 = (self.peft_sites[name].module for name in ("fc1", "act", "fc2"))
        return fc2(act(fc1(x)))

    def site_scaled(self, y: Tensor) -> Tensor:
        """The branch ``(B, C, H, W)`` times its LayerScale, where the block has any."""
        raise NotImplementedError(f"{type(self).__name__} states no site_scaled")

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.site_first(y)

    def site_first(self, y: Tensor) -> Tensor:
        """What leaves the branch, as ``(B, C, H, W)``."""
        return y if self.site_is_first else y.permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.site_forward(x, tuple(x.shape[2:]))


class ConvNextHost(Host):
    """A stem, and stages of blocks with a norm and a strided convolution between them."""

    def describe(self) -> None:
        self.between: dict[int, list[nn.Module]] = {}
        self.pools_map = True
        self.flat_stream = False

    def add_stem(self, projection: nn.Module, norm: nn.Module, embedding: nn.Module | None = None) -> None:
        """State the stem: its last convolution, its norm, and the module around it that sees the image."""
        self.embeds(projection, embedding)
        self.add_maps(patch_norm=norm)

    def add_stage(self, stage: int, blocks: Iterable[nn.Module], where: str, between: Iterable[nn.Module] = ()) -> None:
        """Add the blocks of a stage.

        Args:
            stage: Its number.
            blocks: The backbone's own blocks.
            where: The name of what holds them, for errors.
            between: Norm and convolution that lead to it; none where the map enters as it is.
        """
        self.add_blocks(blocks, where, stage)
        if between := list(between):
            norm, convolution = self.between[stage] = between
            self.add_maps(**{f"downsample{stage}_norm": norm, f"downsample{stage}_reduction": convolution})

    def add_maps(self, **modules: nn.Module | None) -> None:
        """As :meth:`add_sites`, of modules that take and give ``(B, C, H, W)``."""
        before = set(self.modules)
        self.add_sites(**modules)
        added = set(self.modules) - before
        self.channels_first |= {name for name in added if not isinstance(self.modules[name], nn.Conv2d)}

    def downsample_map(self, stage: int, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        x = tokens.transpose(1, 2).unflatten(2, grid)
        for module in self.between[stage]:
            x = module(x)
        return x.flatten(2).transpose(1, 2)
