"""ST-Adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

WHERE = {"mlp": ("mlp",), "attn": ("attn",), "both": ("attn", "mlp")}
ACTIVATIONS = {"none": nn.Identity, "gelu": nn.GELU}


class SpaceTimeAdapter(nn.Module):
    """``x + W_up act(DWConv3d(W_dn x + b_dn)) + b_up`` on the map's tokens of a clip; others pass by.

    Args:
        dim: Width of the stream.
        width: Channels r of the convolution.
        kernel: Its extents in time, height and width, odd.
        act: A key of :data:`ACTIVATIONS`.
    """

    def __init__(self, dim: int, width: int, kernel: tuple[int, ...], act: str) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        padding = tuple(size // 2 for size in kernel)
        self.conv = nn.Conv3d(width, width, tuple(kernel), padding=padding, groups=width)
        self.act = ACTIVATIONS[act]()
        self.up = nn.Linear(width, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Both linears as torch starts them with biases of zero, the convolution zero."""
        self.down.reset_parameters()
        self.up.reset_parameters()
        for param in (self.down.bias, self.conv.weight, self.conv.bias, self.up.bias):
            nn.init.zeros_(param)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        prefix, clips = flow.split_clips(x)
        # Channels in the last place lead to a kernel of torch's whose bfloat16 gradients on CPUs are arbitrary.
        hidden = self.down(clips.movedim(1, -1)).movedim(-1, 1).contiguous()
        update = self.up(self.act(self.conv(hidden)).movedim(1, -1)).movedim(-1, 1)
        return flow.join_clips(prefix, clips + update)


@PEFT_METHODS.register_module(name="ST-Adapter")
@dataclass(kw_only=True)
class STAdapter(Method):
    """``x <- x + W_up DWConv3d(W_dn x + b_dn) + b_up`` on the residual stream, before the MLP and / or attention.

    ``DWConv3d`` is depth-wise over time, height and width of a clip's map; the class token passes by. It needs a host
    that runs clips: an image backbone on frames (``vpeft.ClipBackbone``), where nothing else connects them, or a video
    backbone, on whose tubelets it acts alike.

    In the last block it changes what a mean over the map reads; a class token is read past it, which is why its
    gradient is zero there with ``where="mlp"`` (the authors' 12 adapters have it too).

    Args:
        bottleneck: Channels r of the convolution; None means half of each block's width, 384 on ViT-B.
        kernel: Extents in time, height and width. The released code and its figures have ``(3, 1, 1)``; the paper
            speaks of 3 x 3 x 3.
        where: ``mlp`` (Kinetics-400), ``both`` (Something-Something v2) or ``attn``.
        act: ``none`` as released, or ``gelu`` behind the convolution, where the paper draws an activation.
    """

    bottleneck: int | None = None
    kernel: tuple[int, ...] = (3, 1, 1)
    where: str = "mlp"
    act: str = "none"

    category = "adapter"
    identity_at_start = "rounding"  # on clips of a video backbone what follows rounds otherwise
    needs_frames = ("tokens", "batch")
    paper = "ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning, NeurIPS 2022"
    space = {"bottleneck": [8, 16, 32, 64], "where": ["mlp", "both"]}
    limits = {"kernel": (1, 15)}
    unverified = "The paper's kernel and activation; equation, start and sizes are those of the authors' code."

    def check(self, host: Host) -> None:
        self.need_choice("where", WHERE)
        self.need_choice("act", ACTIVATIONS)
        if len(self.kernel) != 3 or not all(size % 2 for size in self.kernel):
            raise UserError(f"ST-Adapter: kernel={self.kernel} must be three odd numbers: time, height, width.")
        if self.bottleneck is not None:
            self.need_width("bottleneck", host)
        if self.where == "attn":
            self.need_attention(host)

    def places(self, block: Block) -> Iterator[tuple[str, str, int, int]]:
        """Name, site, stream width and channels of a block's adapters."""
        for unit in (unit for unit in WHERE[self.where] if unit in block.units):
            first = unit == block.units[0]
            dim = block.dim_in if first else block.dim
            yield unit, "block" if first else "attn_residual", dim, self.bottleneck or dim // 2

    def build(self, host: Host) -> None:
        for block in host.blocks:
            for name, site, dim, width in self.places(block):
                module = SpaceTimeAdapter(dim, width, self.kernel, self.act)
                block.place(site, "before" if site == "block" else "after", module, name)

    def count(self, host: Host) -> int:
        volume = self.kernel[0] * self.kernel[1] * self.kernel[2]
        places = (place for block in host.blocks for place in self.places(block))
        return sum(2 * dim * r + (volume + 2) * r + dim for _, _, dim, r in places)
