"""Blocks whose modules take maps ``(B, C, H, W)``, with streams of tokens between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.sites.passes import in_program


class MapModulesBlock(SiteBlock):
    """Norms and 1x1 convolutions run on the map; with tokens off the map on a row of all tokens, ``(B, C, N, 1)``."""

    @staticmethod
    def site_takes_maps(block: nn.Module) -> bool:
        return True

    def site_map(self, module: Callable[[Tensor], Tensor], x: Tensor, extents: tuple[int, ...] | None = None) -> Tensor:
        """A module of maps that looks at each token alone, on tokens ``(B, N, C)``.

        Args:
            module: The module.
            x: The tokens; some of them as ``(N, C)``.
            extents: Of the map that they are; by default the current one.
        """
        if x.dim() == 2:  # there may be none: a convolution takes an empty batch, and no empty map
            return module(x[:, :, None, None]).flatten(1)
        height, width = extents or self.peft_flow.grid
        whole = x.shape[1] == height * width
        return (
            module(as_map(x, (height, width)) if whole else x.transpose(1, 2).unsqueeze(3)).flatten(2).transpose(1, 2)
        )


def as_map(x: Tensor, extents: tuple[int, ...]) -> Tensor:
    """Tokens ``(B, H*W, C)`` as ``(B, C, H, W)``, in memory as they are.

    A view of one image has lost the stride by which torch knows that its channels are last: convolutions would round
    in another way.
    """
    x = x.transpose(1, 2).unflatten(2, extents)
    if len(x) == 1 and x.stride(1) == 1 and not in_program():
        return x.clone(memory_format=torch.channels_last)
    return x
