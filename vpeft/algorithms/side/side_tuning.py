"""Side-Tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.modules.stateless import Stateless
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.site import channels_last
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

#: Kernel, stride and padding of the side network's convolutions, and by what the width is multiplied behind each.
LAYERS = ((8, 4, 2, 1), (3, 2, 1, 4), (3, 2, 1, 4), (3, 1, 1, 1))
GROUPS = 2


class ConvNet(nn.Sequential):
    """An image ``(B, channels, H, W)`` to a map ``(B, width, H / 16, W / 16)``: four times a convolution without bias,
    GroupNorm and ReLU.
    """

    def __init__(self, channels: int, width: int) -> None:
        layers: list[nn.Module] = []
        for kernel, stride, padding, times in LAYERS:
            layers.append(nn.Conv2d(channels, times * width, kernel, stride, padding, bias=False))
            layers += [nn.GroupNorm(GROUPS, times * width), nn.ReLU()]
            channels = times * width
        super().__init__(*layers)

    def reset_parameters(self) -> None:
        """All as torch starts it."""
        for module in self:
            if not isinstance(module, nn.ReLU):
                module.reset_parameters()


class SeeImage(Stateless):
    """Runs the side network on the image at the patch embedding, which goes on untouched; on every frame of a clip."""

    def __init__(self, key: str, network: ConvNet) -> None:
        super().__init__()
        self.key, self.network = key, (network,)  # in a tuple, so that torch does not register it a second time

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y``, and the map kept."""
        images = x if x.dim() == 4 else x.transpose(1, 2).flatten(0, 1)
        flow.state.setdefault(self.key, {})[-1] = self.network[0](images)
        return y


class KeepSize(Stateless):
    """Keeps the extents of the map that leaves a block, in video its frames too: an output norm may run when later
    blocks have passed.
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = f"{key}.size"

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.state.setdefault(self.key, {})[flow.index] = (*flow.grid[:-2], *flow.hw)
        return x


class Blend(nn.Module):
    """``alpha y + (1 - alpha) P side``, ``alpha = sigmoid(a)``.

    Args:
        key: Where the side network's map is kept.
        dims: Widths of it and of y.
        alpha: At the start.
        block: The block whose output y is, where side is a map as large as y's and every place has its own; None where
            all of y gets the mean of the map.
    """

    def __init__(self, key: str, dims: tuple[int, int], alpha: float, block: int | None) -> None:
        super().__init__()
        self.key, self.start, self.block = key, math.log(alpha / (1 - alpha)), block
        self.project = nn.Linear(*dims, bias=False)
        self.alpha = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """a as the start says, P as torch starts a linear."""
        nn.init.constant_(self.alpha, self.start)
        self.project.reset_parameters()

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        side = flow.state[self.key][-1]
        pooled = side.mean((2, 3)).unflatten(0, (len(y), -1)).mean(1)  # over the frames of a clip too
        if self.block is None:
            flow.need_unmasked()
            side = pooled.view(len(y), *[1] * (y.dim() - 2), -1)
        else:
            side = self.as_output(side, pooled, y, flow)
        alpha = torch.sigmoid(self.alpha)
        return alpha * y + (1 - alpha) * self.project(side)

    def as_output(self, side: Tensor, pooled: Tensor, y: Tensor, flow: Flow) -> Tensor:
        """The map with the extents of y, those of a clip in time too, laid out as y; tokens off it have its mean."""
        size = flow.state[f"{self.key}.size"][self.block]
        if len(size) == 3:  # the frames of a clip lie in one stream
            side = side.unflatten(0, (len(y), -1)).transpose(1, 2)
        spatial = F.interpolate(side, size, mode="trilinear" if len(size) == 3 else "bilinear", align_corners=False)
        if y.dim() > 3:
            return channels_last(spatial)
        first = pooled[:, None].expand(-1, flow.own_prefix, -1)
        return torch.cat((first, spatial.flatten(2).transpose(1, 2)), dim=1)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class SideTuning(Method):
    """``alpha B(x) + (1 - alpha) P S(x)`` in the place of the frozen backbone's output B(x), behind its output norm:
    S is a small convolutional network on the image x, P a linear without bias to the backbone's width, and
    ``alpha = sigmoid(a)`` one learned number. For a head that reads a vector S(x) is the mean of S's map; for one that
    reads maps it is the map itself, resized, and every output of the backbone has P and a of its own.

    S has the first four layers of the network that the authors take on Taskonomy (FCN5); the fifth goes to the eight
    channels of their encoder, and P stands for it. S starts at random, one of the authors' starts; the other,
    distilling the base into it, is not here. "Sidetune" in the comparisons of VPT has the same blend with torchvision's
    AlexNet, trained on ImageNet, as S and with a P of 9,216 inputs (9.5 M parameters on ViT-B): its figures are not
    those of this S.

    Args:
        width: Channels of S: this, four times this twice, and this again; an even number.
        alpha: Weight of the backbone at the start.
    """

    width: int = 64
    alpha: float = 0.5

    category = "side"
    paper = "Side-Tuning: A Baseline for Network Adaptation via Additive Side Networks, ECCV 2020, 1912.13503"
    space = {"width": [8, 16, 32, 64], "alpha": [0.5, 0.9]}
    limits = {"alpha": (0.01, 0.99), "width": (2, 4096)}
    memory = "M0"
    needs_all_blocks = "its network stands beside the whole backbone"
    identity_at_start = False
    base_eval = True
    unverified = (
        "Blend, start of alpha and layers are those of the authors' code for other backbones and of VPT's for ViT; the "
        "side network of 64 channels with a linear behind it is our choice for what has no encoder of eight channels."
    )

    def check(self, host: Host) -> None:
        name, of = self.registered_name(), host.registered_name()
        if self.width % GROUPS:
            raise UserError(f"{name}: width={self.width} must be even, as its norms have {GROUPS} groups.")
        self.need_image(host)
        self.need_output_norm(host)
        if len(host.output_norms) < len(host.outputs):
            raise UserError(
                f"{name} blends at the output norms; this {of} gives the outputs of the blocks "
                f"{', '.join(map(str, host.outputs))} and has not one norm for each: let it give the last alone."
            )

    def build(self, host: Host) -> None:
        network, key = ConvNet(host.modules["patch_embed"].in_channels, self.width), host.method_key
        host.keep(network, "network")
        host.place("patch_embed", "parallel", SeeImage(key, network), "look")
        for norm in host.output_norms:
            block = host.last_block(norm)
            if host.reads_map:
                block.place("block", "after", KeepSize(key), "size")
            own = block.index if host.reads_map else None
            host.place(norm, "after", Blend(key, (self.width, block.dim), self.alpha, own), norm.replace(".", "_"))

    def count(self, host: Host) -> int:
        total, channels = 0, host.modules["patch_embed"].in_channels
        for kernel, _, _, times in LAYERS:
            total += (kernel**2 * channels + 2) * times * self.width  # the norm has two numbers a channel
            channels = times * self.width
        return total + sum(self.width * host.last_block(norm).dim + 1 for norm in host.output_norms)
