"""With what an unknown network can be called: what the user gives, else an image of the size that it states."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.wrappers import named_modules
from vpeft.errors import UserError

#: A call of a network or of the model around it.
Call = Callable[[nn.Module], Any]
#: Heights and widths that are tried where nothing states one.
SIZES = (224, 256, 64, 32, 384, 512, 1024)
#: Frames of a clip likewise.
FRAMES = 8


def call_with(sample: Any) -> Call:
    """The call that a user's sample stands for.

    Args:
        sample: A tensor, a tuple or list of arguments, a dict of keywords, or a function of the model.

    Raises:
        UserError: It is something else.
    """
    if isinstance(sample, Tensor):
        return lambda model: model(sample)
    if isinstance(sample, Mapping):
        return lambda model: model(**sample)
    if isinstance(sample, (tuple, list)):
        return lambda model: model(*sample)
    if callable(sample):
        return sample
    raise UserError(
        f"sample={type(sample).__name__}: give a tensor, a tuple of arguments, a dict of keywords, or a function that "
        "calls the model."
    )


def guesses(network: nn.Module) -> Iterator[tuple[str, Call]]:
    """Shapes of images, clips or vectors that a network may take, the likeliest first, each with its call."""
    keyword = getattr(network, "main_input_name", None) if hasattr(network, "config") else None
    seen: set[tuple[int, ...]] = set()
    for shape in (*_stated(network), *_by_first_module(network)):
        if shape not in seen:
            seen.add(shape)
            yield str(shape), _call(shape, keyword)


def _call(shape: tuple[int, ...], keyword: str | None) -> Call:
    def call(network: nn.Module) -> Any:
        like = next((param for param in network.parameters() if param.is_floating_point()), torch.empty(0))
        generator = None if like.is_meta else torch.Generator(like.device).manual_seed(0)
        image = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        return network(**{keyword: image}) if keyword else network(image)

    return call


def _stated(network: nn.Module) -> Iterator[tuple[int, ...]]:
    for name in ("pretrained_cfg", "default_cfg"):  # timm
        cfg = getattr(network, name, None)
        cfg = dataclasses.asdict(cfg) if dataclasses.is_dataclass(cfg) else cfg
        if isinstance(cfg, Mapping) and cfg.get("input_size"):
            yield (1, *cfg["input_size"])
    for part in _configs(getattr(network, "config", None)):  # transformers
        if size := _pair(getattr(part, "image_size", None) or getattr(part, "crop_size", None)):
            frames = getattr(part, "num_frames", None) or getattr(part, "frames_per_clip", None)
            yield (1, *((frames,) if frames else ()), getattr(part, "num_channels", None) or 3, *size)
    for part in (network, getattr(network, "patch_embed", None)):
        for name in ("img_size", "image_size"):
            if size := _pair(getattr(part, name, None)):
                yield (1, 3, *size)


def _configs(config: Any) -> Iterator[Any]:
    """A config, and those of its parts that see images, outermost first."""
    if config is not None:
        yield config
        for part in ("vision_config", "backbone_config"):
            yield from _configs(getattr(config, part, None))


def _by_first_module(network: nn.Module) -> Iterator[tuple[int, ...]]:
    for _, module in named_modules(network):
        if isinstance(module, nn.Linear):
            yield (1, module.in_features)
            return
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            extents = module.weight.dim() - 2
            frames = (FRAMES,) if extents == 3 else ()
            yield from ((1, module.in_channels, *frames, *[size] * min(extents, 2)) for size in SIZES)
            return


def _pair(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int) and not isinstance(size, bool):
        return size, size
    pair = tuple(size) if isinstance(size, (tuple, list)) else ()
    return pair if len(pair) == 2 and all(isinstance(one, int) for one in pair) else None
