"""transformers 4.57: ``output_hidden_states`` gives the maps, ``interpolate_pos_encoding`` resizes position tables."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import DonutSwinModel, HieraModel, SamHQVisionModel, SamVisionModel, SwinModel, Swinv2Model
from transformers.models.hiera.modeling_hiera import unroll

from vpeft.core.backbones.sites.flow import roll
from vpeft.core.models.reading.reader import Level, Reader, Reading, split_tokens
from vpeft.errors import UserError, one_line

#: SAM 2, from transformers 4.56 on.
_SAM2 = [getattr(transformers, f"Sam2{name}Model", None) for name in ("HieraDet", "Vision")]
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


def _entering(network: nn.Module, images: Tensor) -> Tensor:
    """Images as a pass may begin with them that does not call the network itself, which may be adapted."""
    return network.site_images(images) if hasattr(network, "site_images") else images


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
        states, extents = network.embeddings(_entering(network, images), interpolate_pos_encoding=True)
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


class HFHieraReader(Reader):
    """Hiera, run stage by stage: with the hidden states asked for, the library takes images of its config's size alone.

    A table of positions that is square is resized as the library does, and any image of whole cells can be read.
    """

    normed = False

    def __init__(self, network: HieraModel) -> None:
        super().__init__(network)
        config = network.config
        stride, steps = config.patch_stride[0], [step[0] for step in network.unroll_schedule]
        widths = [int(config.embed_dim * config.embed_dim_multiplier**stage) for stage in range(len(config.depths))]
        self.pools = [0, *(min(stage, config.num_query_pool) for stage in range(1, len(widths)))]
        self.levels = [
            Level(width, stride * math.prod(steps[:pools]), width)
            for width, pools in zip(widths, self.pools, strict=True)
        ]
        self.own = tuple(config.image_size[-2:])
        self.size = None if self.own[0] == self.own[1] else self.own
        self.multiple = stride * math.prod(steps)

    def drop_pooling(self) -> None:
        self.network.pooler = None

    def read(self, images: Tensor, levels: Sequence[int]) -> Reading:
        network, size = self.network, images.shape[2:]
        stride, steps = network.config.patch_stride, network.unroll_schedule
        x = network.embeddings(_entering(network, images), interpolate_pos_encoding=tuple(size) != self.own)[0]
        x, maps = unroll(x, tuple(size), stride, steps), []
        for stage, level, pools in zip(network.encoder.stages, self.levels, self.pools, strict=True):
            x = stage(x, None)[0]
            extents = tuple(one // level.stride for one in size)
            maps.append(roll(x, extents, tuple(map(tuple, steps[pools:]))).transpose(1, 2).unflatten(2, extents))
        return Reading([maps[i] for i in levels], x.new_zeros(len(x), 0, x.shape[2]), maps[-1])

    def pooled(self, images: Tensor) -> Tensor:
        if self.network.pooler is None:
            raise UserError("HieraModel pools nothing without add_pooling_layer=True: take out='mean'.")
        return self.network(images, interpolate_pos_encoding=tuple(images.shape[2:]) != self.own).pooler_output


class HFSam2Reader(Reader):
    """SAM 2's encoder gives the maps of its stages; the feature pyramid that ``Sam2VisionModel`` puts behind goes."""

    normed = False

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        if hasattr(network, "neck"):
            network.neck = nn.Identity()
        self.encoder = getattr(network, "backbone", network)
        config = self.encoder.config
        widths, pools = config.embed_dim_per_stage, config.num_query_pool_stages
        stride, step = config.patch_stride[0], config.query_stride[0]
        self.levels = [Level(w, stride * step ** min(stage, pools), w) for stage, w in enumerate(widths)]
        # Its table of positions is laid in whole windows.
        self.multiple = math.lcm(self.levels[-1].stride, stride * config.window_size_per_stage[0])

    def read(self, images: Tensor, levels: Sequence[int]) -> Reading:
        maps = [x.permute(0, 3, 1, 2) for x in self.encoder(images).intermediate_hidden_states]
        return Reading([maps[i] for i in levels], maps[-1].new_zeros(len(images), 0, maps[-1].shape[1]), maps[-1])

    def pooled(self, images: Tensor) -> Tensor:
        raise UserError(f"{type(self.network).__name__} pools nothing: take out='mean'.")


READERS = {
    nn.Module: TransformersReader,
    HieraModel: HFHieraReader,
    **dict.fromkeys(filter(None, _SAM2), HFSam2Reader),
    **dict.fromkeys((SwinModel, Swinv2Model, DonutSwinModel), HFSwinReader),
    **dict.fromkeys((SamVisionModel, SamHQVisionModel), HFSamReader),
}
