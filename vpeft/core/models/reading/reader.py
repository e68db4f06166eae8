"""What is asked of a network so that it can be the backbone of an OpenMMLab model."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from vpeft.errors import UserError

#: Files of this room by the package that a network's class is written in.
FILES = {name: name for name in ("timm", "transformers", "torchvision", "open_clip")}


class Level(NamedTuple):
    """What a block (of a network of one resolution) or a stage gives.

    Attributes:
        channels: Width of its map.
        stride: Pixels from one place of the map to the next.
        final: Width of its map behind the network's last norm, which SAM's neck makes another.
    """

    channels: int
    stride: int
    final: int


class Reading(NamedTuple):
    """What a network gives for images.

    Attributes:
        maps: ``(B, C, H, W)`` of each level that was asked for, as it leaves the level.
        prefix: ``(B, P, C)``, class token and registers behind the last norm; ``P`` may be 0.
        final: ``(B, C, H, W)``, the map of the last level, behind the last norm where the reader is ``normed``.
    """

    maps: list[Tensor]
    prefix: Tensor
    final: Tensor


class Reader:
    """Reads one network.

    Attributes:
        network: The network.
        levels: Its blocks, or its stages where it has several resolutions.
        size: Height and width of the only images that it takes; None where it takes any multiples of ``multiple``.
        size_option: The library's option that sets it.
        normed: Whether the library gives the last map behind a norm.
        multiple: Of how many pixels height and width must be multiples; None means the largest stride.
    """

    network: nn.Module
    levels: list[Level]
    size: tuple[int, int] | None = None
    size_option: ClassVar[str] = "image_size"
    normed: bool = True
    multiple: int | None = None

    @classmethod
    def options(cls, kind: type[nn.Module]) -> dict[str, Any]:
        """Options with which the library builds a network of that class for images of any size, without classifier."""
        return {}

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @property
    def plain(self) -> bool:
        """Whether all levels have one resolution: they are blocks then."""
        return len({level.stride for level in self.levels}) == 1

    def drop_pooling(self) -> None:
        """Take off what only a classifier reads, such as a norm behind the pooling."""

    def read(self, images: Tensor, levels: Sequence[int]) -> Reading:
        """Run the network.

        Args:
            images: ``(B, 3, H, W)``, both of ``multiple``.
            levels: Which levels to read, ascending.
        """
        raise NotImplementedError(f"{type(self).__name__} states no read()")

    def pooled(self, images: Tensor) -> Tensor:
        """What the network's own classifier would read, ``(B, C)``."""
        raise NotImplementedError(f"{type(self).__name__} states no pooled()")


def reader_class(kind: type[nn.Module]) -> type[Reader]:
    """The reader of the library in which a network's class, or what it derives from, is written.

    Raises:
        UserError: There is none.
    """
    packages = [cls.__module__.partition(".")[0] for cls in kind.__mro__]
    file = next((FILES[package] for package in packages if package in FILES), None)
    if file is None:
        raise UserError(
            f"vpeft.Backbone reads networks of {', '.join(FILES)}, and {kind.__name__} is one of "
            f"{packages[0]}: take the same network of those, or a backbone class of OpenMMLab."
        )
    # By exact classes; where every class of the library answers alike, by that of all modules.
    readers: dict[type[nn.Module], type[Reader]] = importlib.import_module(f"{__package__}.{file}").READERS
    found = readers.get(kind, readers.get(nn.Module))
    if found is None:
        names = ", ".join(sorted(cls.__name__ for cls in readers))
        raise UserError(
            f"of {file} vpeft.Backbone reads {names}, and not {kind.__name__}: take the same network of timm "
            "(of='timm/...'), or a backbone class of OpenMMLab."
        )
    return found


def split_tokens(tokens: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Prefix ``(B, P, C)`` and map ``(B, C, H, W)`` of tokens ``(B, P + H*W, C)``."""
    prefix = tokens.shape[1] - height * width
    return tokens[:, :prefix], tokens[:, prefix:].transpose(1, 2).unflatten(2, (height, width))
