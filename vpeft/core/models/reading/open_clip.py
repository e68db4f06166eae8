"""open_clip 3.3: the image tower of a CLIP; its positions are of one size of image."""

from __future__ import annotations

from collections.abc import Sequence

from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from vpeft.core.models.reading.reader import Level, Reader, Reading, split_tokens


class OpenCLIPReader(Reader):
    """``VisionTransformer``."""

    def __init__(self, network: VisionTransformer) -> None:
        super().__init__(network)
        width, (stride, _) = network.conv1.out_channels, network.patch_size
        self.levels = [Level(width, stride, width)] * len(network.transformer.resblocks)
        self.size = tuple(network.image_size)
        self.normed = network.attn_pool is None and not network.final_ln_after_pool

    def drop_pooling(self) -> None:
        self.network.proj = self.network.attn_pool = None
        if not self.normed:
            self.network.ln_post = nn.Identity()

    def read(self, images: Tensor, levels: Sequence[int]) -> Reading:
        network, last = self.network, len(self.levels) - 1
        every = sorted({*levels, last})
        x, states = network.transformer.forward_intermediates(network._embeds(images), indices=every)
        extents = [size // self.levels[0].stride for size in images.shape[2:]]
        maps = [split_tokens(state, *extents)[1] for i, state in zip(every, states, strict=True) if i in levels]
        return Reading(maps, *split_tokens(network.ln_post(x) if self.normed else x, *extents))

    def pooled(self, images: Tensor) -> Tensor:
        out = self.network(images)
        return out[0] if isinstance(out, tuple) else out


READERS = {VisionTransformer: OpenCLIPReader}
