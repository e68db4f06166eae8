"""torchvision 0.28: its models give class scores alone, so they are run part by part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer

from vpeft.core.models.reading.reader import Level, Reader, Reading, split_tokens


class TorchvisionViTReader(Reader):
    """``VisionTransformer``, which takes one size of image."""

    def __init__(self, network: VisionTransformer) -> None:
        super().__init__(network)
        width, size = network.hidden_dim, network.image_size
        self.levels = [Level(width, network.patch_size, width)] * len(network.encoder.layers)
        self.size = (size, size)
        network.heads = nn.Identity()

    def read(self, images: Tensor, levels: Sequence[int]) -> Reading:
        network, encoder = self.network, self.network.encoder
        x = network._process_input(images)
        x = torch.cat((network.class_token.expand(len(x), -1, -1), x), dim=1)
        x, states = encoder.dropout(x + encoder.pos_embedding), []
        for layer in encoder.layers:
            x = layer(x)
            states.append(x)
        extents = [size // network.patch_size for size in images.shape[2:]]
        return Reading([split_tokens(states[i], *extents)[1] for i in levels], *split_tokens(encoder.ln(x), *extents))

    def pooled(self, images: Tensor) -> Tensor:
        return self.network(images)


class StageReader(Reader):
    """Stages and what leads to each by turns, as in ``features`` of Swin and ConvNeXt."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        widths = [self.width(stage[-1]) for stage in network.features[1::2]]
        self.levels = [Level(width, 4 * 2**stage, width) for stage, width in enumerate(widths)]

    def width(self, block: nn.Module) -> int:
        """Width of the stream behind a block."""
        raise NotImplementedError(f"{type(self).__name__} states no width")

    def as_map(self, x: Tensor) -> Tensor:
        """The stream as ``(B, C, H, W)``."""
        return x

    def behind(self, x: Tensor) -> Tensor:
        """The last stream behind the last norm."""
        return x

    def read(self, images: Tensor, levels: Sequence[int]) -> Reading:
        x, states = images, []
        for number, part in enumerate(self.network.features):
            x = part(x)
            if number % 2:
                states.append(x)
        final = self.as_map(self.behind(x))
        return Reading([self.as_map(states[i]) for i in levels], final.new_zeros(len(final), 0, final.shape[1]), final)

    def pooled(self, images: Tensor) -> Tensor:
        return self.network(images).flatten(1)


class TorchvisionSwinReader(StageReader):
    """``SwinTransformer``, of V1 and V2."""

    def __init__(self, network: SwinTransformer) -> None:
        super().__init__(network)
        network.head = nn.Identity()

    def width(self, block: nn.Module) -> int:
        return block.norm1.normalized_shape[0]

    def as_map(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)

    def behind(self, x: Tensor) -> Tensor:
        return self.network.norm(x)


class TorchvisionConvNextReader(StageReader):
    """``ConvNeXt``, whose last norm stands behind the pooling."""

    normed = False

    def __init__(self, network: ConvNeXt) -> None:
        super().__init__(network)
        network.classifier[2] = nn.Identity()

    def width(self, block: nn.Module) -> int:
        return block.layer_scale.shape[0]

    def drop_pooling(self) -> None:
        self.network.classifier[0] = nn.Identity()


READERS = {
    VisionTransformer: TorchvisionViTReader,
    SwinTransformer: TorchvisionSwinReader,
    ConvNeXt: TorchvisionConvNextReader,
}
