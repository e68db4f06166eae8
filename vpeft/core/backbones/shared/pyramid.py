"""Pyramids of transformers: keys and values of a reduced map, a convolution inside the MLP, an embedding per stage."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.host import Host


class PyramidBlock(SiteBlock):
    """A block whose keys and values are of the map behind a strided convolution, and whose MLP convolves its map.

    Tokens off the map bypass both convolutions, and are keys as they are.
    """

    pointwise_mlp = False
    full_keys = False

    def site_map(self, tokens: Tensor) -> Tensor:
        """``(B, H*W, C)`` as ``(B, C, H, W)``."""
        batch, _, dim = tokens.shape
        return tokens.permute(0, 2, 1).reshape(batch, dim, *self.peft_flow.hw)

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_drop2(self, x: Tensor) -> Tensor:
        return self.drop_path(x)


class PyramidHost(Host):
    """A backbone that embeds its map anew before every stage, and norms it behind every stage."""

    carries_tokens = False

    def add_stage(self, blocks: Iterable[nn.Module], where: str, projection: nn.Module, *norms: nn.Module) -> None:
        """Add a stage.

        Args:
            blocks: Its blocks.
            where: Name of what holds them.
            projection: The convolution of its embedding.
            norms: Norm of the embedding, and that behind the stage, which may be an ``nn.Identity``.
        """
        stage = len({block.stage for block in self.blocks})
        self.add_blocks(blocks, where, stage)
        own, behind = norms
        if stage:
            self.modules |= {f"downsample{stage}.norm": own, f"downsample{stage}.reduction": projection}
            before = f"norm.{stage - 1}"
            named = self.modules if before in self.modules else self.identities
            named[f"stage_{before}"] = named.pop(before)
        else:
            self.embeds(projection)
            self.modules["patch_norm"] = own
        (self.identities if isinstance(behind, nn.Identity) else self.modules)[f"norm.{stage}"] = behind

    def stage_end(self, stage: int) -> Block:
        """The last block of a stage."""
        return [block for block in self.blocks if block.stage == stage][-1]

    def downsample_map(self, stage: int, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        norm = f"stage_norm.{stage - 1}"
        tokens = self.modules[norm](tokens) if norm in self.modules else tokens
        spatial = tokens.unflatten(1, grid[-2:]).permute(0, 3, 1, 2).contiguous()
        embedded = self.modules[f"downsample{stage}.reduction"](spatial)
        return self.modules[f"downsample{stage}.norm"](embedded.flatten(2).transpose(1, 2))
