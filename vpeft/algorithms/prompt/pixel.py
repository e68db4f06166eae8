"""Prompts of pixels: VP's frame over the image, and the borders around a smaller one of EVP and ILM-VP."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS


class Frame(nn.Module):
    """Trained pixels in a frame of ``pad`` pixels along the edges of an image ``(C, H, W)``: four bands.

    Args:
        channels: C.
        size: H and W.
        pad: Width of the frame.
        random: Start from a normal distribution of std 1 instead of zero.
    """

    weight_decay = False

    def __init__(self, channels: int, size: tuple[int, int], pad: int, random: bool) -> None:
        super().__init__()
        (height, width), self.pad, self.random = size, pad, random
        self.top, self.bottom = (nn.Parameter(torch.empty(channels, pad, width)) for _ in range(2))
        self.left, self.right = (nn.Parameter(torch.empty(channels, height - 2 * pad, pad)) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal of std 1, or zero."""
        for band in self.parameters():
            nn.init.normal_(band) if self.random else nn.init.zeros_(band)

    def whole(self) -> Tensor:
        """The frame around zeros, ``(C, H, W)``."""
        inside = self.left.new_zeros(*self.left.shape[:2], self.top.shape[2] - 2 * self.pad)
        return torch.cat((self.top, torch.cat((self.left, inside, self.right), dim=2), self.bottom), dim=1)

    def over(self, x: Tensor) -> Tensor:
        """The frame for images or clips ``(B, C, ..., H, W)``, scaled where they have another size."""
        whole = self.whole()
        if whole.shape[1:] != x.shape[-2:]:
            whole = F.interpolate(whole[None], x.shape[-2:], mode="bilinear", align_corners=False)[0]
        return whole.to(x.dtype).unflatten(0, (-1, *[1] * (x.dim() - 4)))

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return x + self.over(x)


class Border(Frame):
    """The frame around the image made smaller; with ``colours``, mean and deviation, it is of real colours alone."""

    def __init__(
        self, channels: int, size: tuple[int, int], pad: int, colours: tuple[tuple[float, ...], ...] | None
    ) -> None:
        self.colours = colours
        super().__init__(channels, size, pad, random=False)

    def whole(self) -> Tensor:
        pixels = super().whole()
        if self.colours is None:
            return pixels
        mean, std = (pixels.new_tensor(value)[:, None, None] for value in self.colours)
        return (255 * pixels.sigmoid() - mean) / std

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        extents = [int(n) for n in x.shape[-2:]]  # a program is of one size: tracing would have tensors here
        stored = (int(self.left.shape[1]) + 2 * self.pad, int(self.top.shape[2]))
        pads = [round(self.pad * now / own) for now, own in zip(extents, stored, strict=True)]
        inner = [now - 2 * pad for now, pad in zip(extents, pads, strict=True)]
        rows, columns = (torch.from_numpy(smaller(*pair)).to(x) for pair in zip(extents, inner, strict=True))
        small = rows @ x @ columns.t()
        around = (pads[1], pads[1], pads[0], pads[0])
        mask = F.pad(x.new_zeros(inner), around, value=1.0)
        return F.pad(small, around) + self.over(x) * mask


@functools.cache
def smaller(pixels: int, left: int) -> np.ndarray:
    """How much each of ``left`` pixels takes of each of ``pixels``: antialiased bicubic interpolation of an axis, as
    torch has it, in a form that every exporter has.
    """
    step = pixels / left
    centres = (np.arange(left)[:, None] + 0.5) * step
    first = np.maximum((centres - 2 * step + 0.5).astype(int), 0)
    behind = np.minimum((centres + 2 * step + 0.5).astype(int), pixels)
    places = np.arange(pixels)[None]
    far = np.abs((places - centres + 0.5) / step)
    near = (1.5 * far - 2.5) * far * far + 1
    outer = ((-0.5 * far + 2.5) * far - 4) * far + 2
    weights = np.where(far < 1, near, np.where(far < 2, outer, 0.0)) * ((places >= first) & (places < behind))
    return weights / weights.sum(1, keepdims=True)


@dataclass(kw_only=True)
class PixelPrompt(Method):
    """What the three share."""

    category = "prompt"
    needs_all_blocks = "it changes the image, before all blocks"
    identity_at_start = False
    base_eval = True

    def check(self, host: Host) -> None:
        if len(self.image_size) != 2 or 2 * self.pad >= min(self.image_size):
            raise UserError(
                f"{self.registered_name()}: image_size={self.image_size!r} must be a height and a width, above twice "
                f"the pad of {self.pad}."
            )
        if "image" not in host.sites:
            raise UserError(f"{self.registered_name()} changes images, and {host.registered_name()} is given patches.")

    def count(self, host: Host) -> int:
        height, width = self.image_size
        return host.image_channels * 2 * self.pad * (height + width - 2 * self.pad)


@dataclass(kw_only=True)
class BorderPrompt(PixelPrompt):
    """Those that make the image smaller."""

    def check(self, host: Host) -> None:
        super().check(host)
        if host.reads_map:
            raise UserError(
                f"{self.registered_name()} makes the image smaller: maps of this {host.registered_name()} would show "
                "things at other places than labels and boxes. VP moves nothing."
            )


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class VP(PixelPrompt):
    """A learned frame of ``pad`` pixels is added to the image as the preprocessor leaves it: ``f(x + delta)``, with one
    delta for all images. It starts normally distributed, with a deviation of one. The authors train it alone, on CLIP's
    text head or on a fixed choice of ImageNet's classes, by SGD at a learning rate of 40; here the head is trained too.

    Args:
        pad: Width of the frame; 30 pixels of 224 make the published 69,840 numbers.
        image_size: Height and width of the images; for others the frame is scaled.
    """

    pad: int = 30
    image_size: tuple[int, ...] = (224, 224)

    paper = "Exploring Visual Prompts for Adapting Large-Scale Models, 2203.17274, section unverified"
    space = {"pad": [1, 2, 4]}

    def build(self, host: Host) -> None:
        host.place("image", "before", Frame(host.image_channels, self.image_size, self.pad, random=True), "frame")


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class EVP(BorderPrompt):
    """The image is made smaller by ``pad`` pixels at each edge, and a learned border put around it, which so hides
    nothing. Where maps are read, things would stand at other places: it is refused. The border starts at zero of the
    preprocessed values, the mean colour; the authors' starts black. They also divide its gradient by its length over
    all pixels (SGD, learning rate 70), which is left to the optimiser here, and make the image smaller (164 of 224)
    when it is read; here it is in the backbone, by antialiased bicubic interpolation.

    Args:
        pad: Width of the border.
        image_size: Height and width of the images; for others the border is scaled.
    """

    pad: int = 30
    image_size: tuple[int, ...] = (224, 224)

    paper = "Unleashing the Power of Visual Prompting At the Pixel Level, 2212.10556, section unverified"
    space = {"pad": [1, 2, 4]}

    def build(self, host: Host) -> None:
        host.place("image", "before", Border(host.image_channels, self.image_size, self.pad, None), "border")


@PEFT_METHODS.register_module(name="ILM-VP")
@dataclass(kw_only=True)
class ILMVP(BorderPrompt):
    """EVP's border as colours: ``(255 sigmoid(P) - mean) / std`` around the smaller image, P from zero, so that it
    starts grey and never leaves what an image can be. The authors' iterative choice of a label mapping is not here: a
    head is trained.

    Args:
        pad: Width of the border; 48 of 224 leave the authors' 128 pixels.
        image_size: Height and width of the images; for others the border is scaled.
        mean: By channel, of the preprocessor, for values of 0 to 255; one value serves all channels.
        std: Likewise.
    """

    pad: int = 48
    image_size: tuple[int, ...] = (224, 224)
    mean: tuple[float, ...] = (127.5,)
    std: tuple[float, ...] = (127.5,)

    paper = "Understanding and Improving Visual Prompting: A Label-Mapping Perspective, CVPR 2023, section unverified"
    space = {"pad": [1, 2, 4]}
    limits = {"mean": (0, 255)}

    def check(self, host: Host) -> None:
        super().check(host)
        if {len(self.mean), len(self.std)} - {1, host.image_channels}:
            raise UserError(f"ILM-VP: mean and std have one value, or one for each of {host.image_channels} channels.")

    def build(self, host: Host) -> None:
        border = Border(host.image_channels, self.image_size, self.pad, (self.mean, self.std))
        host.place("image", "before", border, "border")
