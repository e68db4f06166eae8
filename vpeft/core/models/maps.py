"""``vpeft.Backbone``: the network of a library as the backbone of an OpenMMLab model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from vpeft.core.backbones.find import hosts_in
from vpeft.core.backbones.host import READ_OUTSIDE, ReadOutside
from vpeft.core.backbones.load import load_backbone
from vpeft.core.backbones.weights import load_weights
from vpeft.core.models.reading.reader import Reader, reader_class
from vpeft.errors import UserError
from vpeft.registry import MODELS, nearest

#: What a backbone can give.
OUTS = ("map", "tokens", "cls", "mean", "pooled")
#: Address of the weights that a library fetches itself, behind which the network's name stands.
OWN_WEIGHTS = "vpeft://library/"


@MODELS.register_module()
class Backbone(BaseModule):
    """A network of :func:`~vpeft.core.backbones.load.load_backbone`, for models of mmpretrain, mmdet and mmseg.

    Images may have any size: they are padded with zeros, right and below, to whole patches (of a network with stages,
    to a multiple of its largest stride), and the library resizes its position tables. A network that its library ties
    to one size (BEiT, Hiera of timm, SAM, ViTs of torchvision and open_clip) takes images of that size alone:
    ``img_size`` (outside timm ``image_size``) among the options sets it.

    Args:
        of: The network, by library and name, as ``timm/vit_base_patch14_dinov2``.
        weights: A file in any format that is recognised; None lets the library fetch its own; False leaves the network
            random. They are read by ``init_weights``, as ``init_cfg`` is in OpenMMLab.
        out: ``map`` gives a tuple of maps ``(B, C, H, W)``, for necks and dense heads. The others give one tensor in
            a tuple, for classifiers: ``tokens`` ``(B, P + H*W, C)`` behind the last norm; ``cls``, the first of them,
            ``(B, C)``; ``mean``, the mean of the map behind the last norm; ``pooled``, what the network's own
            classifier reads.
        out_indices: Of ``map``: the blocks, or the stages of a network that has them, whose maps are given, in
            ascending order; negative ones count from the end. None means the last block, or all stages.
        norm: Whether the network's last norm is applied to the map of the last block or stage. Earlier ones are given
            as they leave their block.
        as_tuple: False gives the one output by itself, as mmaction's recognisers of frames take it.
        options: Of the library's own function, such as ``drop_path_rate`` and ``img_size`` of timm.

    Attributes:
        network: The library's own module; the keys of its tensors stand below ``network.``.
        out_channels: Width of every output of the network.
        strides: Pixels from one place to the next of every map; empty for other outputs.
        hosts: What methods attach to: the network, or parts of it.

    Raises:
        UserError: The network or an option is unknown, or the network does not give what is asked for.
    """

    def __init__(
        self,
        of: str,
        weights: str | bool | None = None,
        out: str = "map",
        out_indices: Sequence[int] | None = None,
        norm: bool = True,
        as_tuple: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if "init_cfg" in options:
            raise UserError("init_cfg of vpeft.Backbone: name the file by weights=FILE instead.")
        if out not in OUTS:
            raise UserError(f"out={out!r} of vpeft.Backbone: {nearest(out, OUTS)}")
        with torch.device("meta"):
            kind = type(load_backbone(of, weights=False, **options))
        reader = reader_class(kind)
        self.network = load_backbone(of, weights=False, **{**reader.options(kind), **options})
        self.reader: Reader = reader(self.network)
        if out != "pooled":
            self.reader.drop_pooling()
        self.of, self.out, self.as_tuple = of, out, as_tuple
        self.levels = self._levels(out_indices)
        if not as_tuple and len(self.levels) > 1:
            raise UserError(
                f"as_tuple=False of vpeft.Backbone beside {len(self.levels)} maps: give one of out_indices."
            )
        levels = self.reader.levels
        self.out_channels = [levels[i].channels for i in self.levels]
        self.last = self.levels[-1] == len(levels) - 1 and (norm or out != "map")
        if self.last:
            self.out_channels[-1] = levels[-1].final
        self.strides = [levels[i].stride for i in self.levels] if out == "map" else []
        normed = out == "pooled" or (self.last and self.reader.normed)
        file = f"{OWN_WEIGHTS}{of}" if weights is None else weights
        self.hosts = list(hosts_in(self.network).values()) or [self.network]
        for backbone in self.hosts:
            setattr(backbone, READ_OUTSIDE, ReadOutside(tuple(self.levels), out == "map", normed))
            backbone.init_cfg = {"type": "Pretrained", "checkpoint": file} if file else None

    def _levels(self, asked: Sequence[int] | None) -> list[int]:
        count, parts = len(self.reader.levels), "blocks" if self.reader.plain else "stages"
        if self.out != "map":
            if asked is not None:
                raise UserError(f"out_indices={asked} of vpeft.Backbone stands beside out={self.out!r}: leave one out.")
            return [count - 1]
        if asked is None:
            asked = [count - 1] if self.reader.plain else range(count)
        found = [i + count if i < 0 else i for i in asked]
        if not found or found != sorted(set(found)) or found[0] < 0 or found[-1] >= count:
            raise UserError(
                f"out_indices={list(asked)} of vpeft.Backbone: {self.of} has {count} {parts}, 0 to {count - 1}; "
                "name each once, in ascending order."
            )
        return found

    def init_weights(self) -> None:
        """Load the network's weights, then give what a method has attached its start."""
        if self.is_init:
            return
        backbones = list(hosts_in(self.network).values()) or [self.network]
        init_cfg, adapted = backbones[0].init_cfg, [b for b in backbones if "peft_adaptation" in vars(b)]
        if init_cfg is not None and adapted != [self.network]:
            load_weights(self.network, init_cfg["checkpoint"])
        for backbone in adapted:
            backbone.peft_adaptation.initialise(_nothing)
        self._is_init = True

    def forward(self, images: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Images ``(B, 3, H, W)``, normalised, to a tuple of what ``out`` says (or, not ``as_tuple``, to the one).

        Raises:
            UserError: The network takes images of another size alone, or has no class token.
        """
        outs = self._outputs(self._fitted(images))
        return outs if self.as_tuple else outs[0]

    def _outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.out == "pooled":
            return (self.reader.pooled(images),)
        found = self.reader.read(images, self.levels)
        if self.out == "map":
            if (maps := self._given()) is not None:
                return maps
            return (*found.maps[:-1], (found.final if self.last else found.maps[-1]).contiguous())
        if self.out == "mean":
            return (found.final.flatten(2).mean(2),)
        if self.out == "tokens":
            return (torch.cat((found.prefix, found.final.flatten(2).transpose(1, 2)), dim=1),)
        if not found.prefix.shape[1]:
            raise UserError(f"{self.of} has no class token: take out='mean' or out='pooled' of vpeft.Backbone.")
        return (found.prefix[:, 0],)

    def _adaptations(self) -> list[Any]:
        return [vars(one)["peft_adaptation"] for one in self.hosts if "peft_adaptation" in vars(one)]

    def _given(self) -> tuple[Tensor, ...] | None:
        """The maps that a method gives in the place of the network's."""
        return next((one.host.flow.maps for one in self._adaptations()), None)

    def widths_and_strides(self) -> tuple[list[int], list[float]]:
        """Those of the outputs, which may be maps of a method's."""
        for one in self._adaptations() if self.out == "map" else ():
            for method in one.methods.values():
                if (maps := method.out_maps(one.host)) is not None:
                    return [width for width, _ in maps], [stride for _, stride in maps]
        return self.out_channels, self.strides

    def _fitted(self, images: Tensor) -> Tensor:
        own, (height, width) = self.reader.size, images.shape[-2:]
        if own is not None:
            if (height, width) != own:
                raise UserError(
                    f"{self.of} takes images of {own[0]} x {own[1]} alone, and one of {height} x {width} came: give "
                    f"{self.reader.size_option}=({height}, {width}) in vpeft.Backbone, or resize the images."
                )
            return images
        stride = self.reader.multiple or max(level.stride for level in self.reader.levels)
        below, right = -height % stride, -width % stride
        return F.pad(images, (0, right, 0, below)) if below or right else images


def _nothing() -> None:
    """What the library has built keeps its values."""


@CheckpointLoader.register_scheme(prefixes=OWN_WEIGHTS)
def load_own_weights(filename: str, map_location: Any = None) -> dict[str, Any]:
    """The weights that a library fetches for a network, for mmengine: ``vpeft://library/timm/...``."""
    return {"state_dict": load_backbone(filename.removeprefix(OWN_WEIGHTS), weights=None).state_dict()}
