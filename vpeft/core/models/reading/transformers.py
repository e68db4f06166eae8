"""transformers 4.57: ``output_hidden_states`` gives the maps, ``interpolate_pos_encoding`` resizes position tables."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DonutSwinModel, SamHQVisionModel, SamVisionModel, SwinModel, Swinv2Model

from vpeft.core.models.reading.reader import Level, Reader, Reading, split_tokens
from vpeft.errors import UserError, one_line

_STEM = 4  # pixels a place of ConvNeXt's first stage, where the config does not say


class TransformersReader(Reader):
    """A network of HuggingFace whose hidden states are tokens of one resolution, or the maps of its stages."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        name, config = type(network).__name__, getattr(network.config, "vision_config", network.config)
        widths, patch = getattr(config, "hidden_sizes", None), getattr(config, "patch_size", None)
        if widths and hasattr(config, "depths"):
            strides = [(patch or _STEM) * 2**stage for stage in range(len(widths))]
            self.levels = [Level(*one, one[0]) for one in zip(widths, strides, strict=True)]
        elif isinstance(patch, int) and not hasattr(config, "depths"):
            if hasattr(config, "mask_ratio"):
                raise UserError(f"{name} leaves out most patches and mixes the others: take hf/vit with its file.")
            self.levels = [Level(config.hidden_size, patch, config.hidden_size)] * config.num_hidden_layers
        else:
            raise UserError(
                f"the hidden states of {name} are no maps of known strides: take the same network of timm "
                "(of='timm/...'), or a backbone class of OpenMMLab."
            )
        self.call: dict[str, Any] = {"output_hidden_states": True}
        if "interpolate_pos_encoding" in inspect.signature(network.forward).parameters:
            self.call["interpolate_pos_encoding"] = True
        self._try(getattr(config, "image_size", None))

    def _try(self, stated: int | Sequence[int] | None) -> None:
        """Read a small image, or one of the stated size where it takes no other: are the maps what they should be?"""
        param, stride = next(self.network.parameters()), self.levels[-1].stride
        own = (stated, stated) if isinstance(stated, int) else tuple(stated or ())
        said = ""
        for size in filter(None, ((2 * stride, 3 * stride), own)):
            try:
                with torch.no_grad():
                    out = self.network(torch.zeros(1, 3, *size, dtype=param.dtype, device=param.device), **self.call)
                    found = self._features(out, size, range(len(self.levels)))
            except (AttributeError, AssertionError, RuntimeError, TypeError, ValueError) as error:
                said = said or one_line(error)
                continue
            if all(one.shape[1] == level.channels for one, level in zip(found.maps, self.levels, strict=True)):
                self.size = size if size == own and said else None
                self.normed = out.hidden_states[-1].dim() == 3 and out.last_hidden_state is not out.hidden_states[-1]
                return
        raise UserError(f"{type(self.network).__name__} gives no maps for images alone ({said}).")

    def drop_pooling(self) -> None:
        if getattr(self.network, "pooler", None) is not None:
            self.network.pooler = None
        if self.levels[-1].stride > self.levels[0].stride and hasattr(self.network, "layernorm"):
            self.network.layernorm = nn.Identity()  # of ConvNeXt: behind its pooling

    def read(self, images: Tensor, levels: Sequence[int]) -> Reading:
        return self._features(self.network(images, **self.call), images.shape[2:], levels)

    def _features(self, out: Any, size: Sequence[int], levels: Sequence[int]) -> Reading:
        states, stride = out.hidden_states[-len(self.levels) :], self.levels[-1].stride
        if states[-1].dim() == 4:
            final = states[-1]
            return Reading([states[i] for i in levels], final.new_zeros(len(final), 0, final.shape[1]), final)
        height, width = size[0] // stride, size[1] // stride
        maps = [split_tokens(states[i], height, width)[1] for i in levels]
        return Reading(maps, *split_tokens(out.last_hidden_state, height, width))

    def pooled(self, images: Tensor) -> Tensor:
        options = {key: value for key, value in self.call.items() if key != "output_hidden_states"}
        pooled = getattr(self.network(images, **options), "pooler_output", None)
        if pooled is None:
            raise UserError(f"{type(self.network).__name__} pools nothing: take out='cls' or out='mean'.")
        return pooled.flatten(1)


class HFSwinReader(Reader):
    """Swin and Swin V2, whose encoder gives the maps of the stages ahead of the merging."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        config = network.config
        widths = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
        self.levels = [Level(width, config.patch_size * 2**stage, width) for stage, width in enumerate(widths)]

    def drop_pooling(self) -> None:
        self.network.pooler = None

    def read(self, images: Tensor, levels: Sequence[int]) -> Reading:
        network = self.network
        states, extents = network.embeddings(images, interpolate_pos_encoding=True)
        asked = {"output_hidden_states": True, "output_hidden_states_before_downsampling": True, "return_dict": True}
        if "always_partition" in inspect.signature(network.encoder.forward).parameters:
            asked["always_partition"] = True  # as SwinBackbone: windows keep their size on maps that are smaller
        out = network.encoder(states, extents, **asked)
        maps = out.reshaped_hidden_states[1:]
        final = network.layernorm(out.last_hidden_state).transpose(1, 2).unflatten(2, maps[-1].shape[2:])
        return Reading([maps[i] for i in levels], final.new_zeros(len(final), 0, final.shape[1]), final)

    def pooled(self, images: Tensor) -> Tensor:
        return self.network(images, interpolate_pos_encoding=True).last_hidden_state.mean(1)


class HFSamReader(Reader):
    """The encoders of SAM and SAM-HQ, which take one size of image; behind their blocks stands a neck."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        config = network.config
        level = Level(config.hidden_size, config.patch_size, config.output_channels)
        self.levels, self.size = [level] * config.num_hidden_layers, (config.image_size, config.image_size)

    def read(self, images: Tensor, levels: Sequence[int]) -> Reading:
        out = self.network(images, output_hidden_states=True)
        maps, final = out.hidden_states[1:], out.last_hidden_state
        maps = [maps[i].permute(0, 3, 1, 2) for i in levels]
        return Reading(maps, final.new_zeros(len(final), 0, final.shape[1]), final)

    def pooled(self, images: Tensor) -> Tensor:
        raise UserError(f"{type(self.network).__name__} pools nothing: take out='mean'.")


READERS = {
    nn.Module: TransformersReader,
    **dict.fromkeys((SwinModel, Swinv2Model, DonutSwinModel), HFSwinReader),
    **dict.fromkeys((SamVisionModel, SamHQVisionModel), HFSamReader),
}
