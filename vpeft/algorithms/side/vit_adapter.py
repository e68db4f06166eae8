"""ViT-Adapter."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.modules.deformable import DeformableAttention, Sizes, as_maps, centres
from vpeft.algorithms.modules.stateless import Stateless
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

#: Levels of the prior that take part in the interactions, by their strides; a fourth has stride 4.
STRIDES = (8, 16, 32)
#: Of the layer norms, as the authors' ViT has it.
EPS = 1e-6
#: Extractors behind the last interaction, besides its own.
EXTRA = 2


class SpatialPrior(nn.Module):
    """A convolutional stem on the image: maps of the strides 8, 16, 32, and with ``pyramid`` of 4, all of width C.

    Three 3x3 convolutions (the first of stride 2) and max pooling, then a 3x3 convolution of stride 2 to each further
    level, all without bias and with batch norm and ReLU; a 1x1 convolution of each level to C.
    """

    def __init__(self, channels: int, width: int, dim: int, pyramid: bool) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 4 * width]
        stem = [layer for i in range(3) for layer in self.step(width if i else channels, width, 1 if i else 2)]
        self.stem = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        self.steps = nn.ModuleList(nn.Sequential(*self.step(widths[i], widths[i + 1], 2)) for i in range(3))
        self.first = nn.Conv2d(width, dim, 1) if pyramid else None
        self.widen = nn.ModuleList(nn.Conv2d(own, dim, 1) for own in widths[1:])
        self.level = nn.Parameter(torch.empty(3, dim))

    @staticmethod
    def step(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        """A 3x3 convolution, batch norm, ReLU."""
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    def forward(self, image: Tensor) -> tuple[Tensor | None, Tensor, Sizes]:
        """The map of stride 4 (or None), the tokens ``(B, N, C)`` of the three others, and their sizes."""
        x, tokens, sizes = self.stem(image), [], []
        first = None if self.first is None else self.first(x)
        for step, widen, level in zip(self.steps, self.widen, self.level, strict=True):
            x = step(x)
            sizes.append((int(x.shape[2]), int(x.shape[3])))
            tokens.append(widen(x).flatten(2).transpose(1, 2) + level)
        return first, torch.cat(tokens, 1), tuple(sizes)


class Injector(nn.Module):
    """``x + gamma * DeformableAttention(LN x, LN c)``: the ViT's map looks at the prior's; gamma starts at zero."""

    def __init__(self, dim: int, inner: int, heads: int, points: int) -> None:
        super().__init__()
        self.query_norm, self.value_norm = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.attn = DeformableAttention(dim, inner, heads, len(STRIDES), points)
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor, grid: tuple[int, int], c: Tensor, sizes: Sizes) -> Tensor:
        seen = self.attn(self.query_norm(x), centres((grid,), x), self.value_norm(c), sizes)
        return x + self.gamma * seen


class Extractor(nn.Module):
    """``c + DeformableAttention(LN c, LN x)``, then ``c + FFN(LN c)``: the prior's tokens look at the ViT's map.

    ``FFN = fc2 GELU(depthwise 3x3(fc1))``, one convolution for all levels.
    """

    def __init__(self, dim: int, inner: int, heads: int, points: int, hidden: int) -> None:
        super().__init__()
        self.query_norm, self.value_norm = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.attn = DeformableAttention(dim, inner, heads, 1, points)
        self.norm = nn.LayerNorm(dim, EPS)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, c: Tensor, sizes: Sizes, x: Tensor, grid: tuple[int, int]) -> Tensor:
        c = c + self.attn(self.query_norm(c), centres(sizes, c), self.value_norm(x), (grid,))
        maps = [self.conv(one) for one in as_maps(self.fc1(self.norm(c)), sizes)]
        hidden = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], 1)
        return c + self.fc2(F.gelu(hidden))


class AdapterNetwork(nn.Module):
    """All that is trained: the prior, the interactions, and what makes the maps.

    Attributes:
        level: Which of the strides 4, 8, 16, 32 is that of the one map; None where all four are given.
    """

    def __init__(self, method: ViTAdapter, host: Host) -> None:
        super().__init__()
        dim, (inner, heads, hidden) = host.blocks[0].dim, method.widths(host)
        groups, self.level = method.groups(host), method.level(host)
        pyramid, points = method.pyramid, method.points
        self.prior = SpatialPrior(host.image_channels, method.conv_width, dim, pyramid)
        self.injectors = nn.ModuleList(Injector(dim, inner, heads, points) for _ in groups if method.inject)
        last = len(groups) - 1
        self.extractors = nn.ModuleList(
            nn.ModuleList(Extractor(dim, inner, heads, points, hidden) for _ in range(1 + EXTRA * (i == last)))
            for i in range(len(groups))
        )
        self.up = nn.ConvTranspose2d(dim, dim, 2, 2) if pyramid else None
        self.norms = nn.ModuleList(nn.BatchNorm2d(dim) for _ in range(4 if pyramid else 1))
        self.ends = tuple(group[-1] for group in groups)

    def reset_parameters(self) -> None:
        """Linears truncated normal of std 0.02, convolutions normal by their outputs, levels N(0, 1), gamma zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                outputs = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / outputs))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        nn.init.normal_(self.prior.level)
        for injector in self.injectors:
            nn.init.zeros_(injector.gamma)

    @property
    def cancelled(self) -> tuple[str, ...]:
        """The shift of a whole level, which the batch norm behind it takes away while it trains."""
        return (f"extractors.{len(self.extractors) - 1}.{EXTRA}.fc2.bias",) if self.up is None else ("up.bias",)

    def maps(self, first: Tensor | None, c: Tensor, sizes: Sizes, vit: list[Tensor]) -> list[Tensor]:
        """The maps that are read, ``BN(c_i + resize(x_i))``: four, or the one of the ViT's stride, of the ViT's size.

        Args:
            first: The prior's map of stride 4, or None.
            c: The prior's tokens behind the last extractor.
            sizes: Their maps' sizes.
            vit: The ViT's maps behind each group.
        """
        levels = [first, *as_maps(c, sizes)]
        vit = [vit[min(i, len(vit) - 1)] for i in range(4)]
        if self.up is None:
            return [self.norms[0](resize(levels[self.level], vit[0]) + vit[self.level])]
        levels[0] = first + resize(self.up(levels[1]), first)
        return [norm(c + resize(x, c)) for norm, c, x in zip(self.norms, levels, vit, strict=True)]


def resize(x: Tensor, like: Tensor) -> Tensor:
    """A map of the size of another, bilinearly."""
    size = tuple(like.shape[2:])
    return x if tuple(x.shape[2:]) == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


class AdapterPart(Stateless):
    """A place at which the network acts; refers to it."""

    def __init__(self, network: AdapterNetwork, key: str, group: int = 0) -> None:
        super().__init__()
        self.network, self.key, self.group = (network,), key, group  # in a tuple: not registered a second time

    def prior(self, flow: Flow) -> tuple[Tensor, Sizes]:
        """The prior's tokens as the group before has left them, and their sizes."""
        (network,), state = self.network, flow.state[self.key]
        return state[network.ends[self.group - 1] if self.group else -1][1], state[-1][2]


class PriorRead(AdapterPart):
    """The prior's maps of the image, which goes on untouched."""

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        images = x.transpose(1, 2).flatten(0, 1) if x.dim() == 5 else x  # a clip whose frames pass as images
        flow.state.setdefault(self.key, {})[-1] = self.network[0].prior(images)
        return x


class InjectBefore(AdapterPart):
    """The injector in front of a group; tokens before the map go on untouched."""

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.need_unmasked()
        prefix, spatial = flow.split(x)
        tokens = spatial.flatten(2).transpose(1, 2)
        tokens = self.network[0].injectors[self.group](tokens, flow.hw, *self.prior(flow))
        return flow.join(prefix, tokens.transpose(1, 2).unflatten(2, flow.hw))


class ExtractBehind(AdapterPart):
    """The extractors behind a group."""

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.need_unmasked()
        spatial, (c, sizes) = flow.split(x)[1], self.prior(flow)
        tokens = spatial.flatten(2).transpose(1, 2)
        for extractor in self.network[0].extractors[self.group]:
            c = extractor(c, sizes, tokens, flow.hw)
        flow.state[self.key][flow.index] = (spatial, c)
        return x


class GiveMaps(AdapterPart):
    """Puts the one map in the place of the backbone's, or leaves the four to it."""

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        (network,), state = self.network, flow.state[self.key]
        first, _, sizes = state[-1]
        maps = network.maps(first, state[network.ends[-1]][1], sizes, [state[end][0] for end in network.ends])
        if network.up is None:
            return flow.join(flow.split(x)[0], maps[0])
        if flow.shares:
            raise UserError(
                "ViT-Adapter: the four maps of pyramid=True are those of one adapter: name one for the batch."
            )
        flow.maps = tuple(maps)
        return x


@PEFT_METHODS.register_module(name="ViT-Adapter")
@dataclass(kw_only=True)
class ViTAdapter(Method):
    """A pyramid beside a plain ViT, for dense tasks: what convolutions see of the image and what the ViT sees of it
    look at each other by deformable attention.

    The spatial prior gives maps ``c_1 .. c_4`` of the strides 4, 8, 16, 32; ``c`` are the tokens of the last three,
    each with a trained vector of its level. The blocks are cut into four groups; with ``x`` the ViT's map, for each

        ``x <- x + gamma DA(LN x, LN c)`` (injector), ``x_i = x <- Blocks_i(x)``,
        ``c <- c + DA(LN c, LN x)``, ``c <- c + FFN(LN c)`` (extractor; three of them behind the last group),

    DA multi-scale deformable attention, gamma zero at the start, FFN with a depthwise convolution. Four maps are given,
    ``BN(c_1 + Up(c_2) + resize(x_1))`` and ``BN(c_i + resize(x_i))``, Up a transposed convolution of stride 2. Where a
    host has less than four blocks, each is a group, and the last one's x stands for those that are not there.

    Here the ViT is frozen, and ``extra=`` trains of it what else shall learn; the authors fine-tune all of it, and
    their published results rest on that. DINOv3's segmentor has it on a frozen backbone without injectors
    (``inject=False``: then no gradient enters the backbone). Not here: the drop path of the authors' extractors.

    Args:
        pyramid: Give the four maps, to a neck or head that reads four. Otherwise the one whose stride is nearest to the
            ViT's takes the place of the ViT's own, in its size; tokens before it stay, and what only the other maps
            need is not there.
        inject: With injectors, by which alone the levels reach one another: without them only with ``pyramid``.
        conv_width: Channels of the prior's first convolutions; further ones have 2 and 4 times as many.
        points: Places that a query looks at, by head and level.
        heads: Heads of deformable attention; None means the ViT's. The authors have 6, 6, 12, 16 for ViT-T, S, B, L.
        ratio: Width inside deformable attention over C; the authors have 1 for ViT-T and S, 0.5 for B.
        mlp_ratio: Hidden width of the FFN over C.
    """

    pyramid: bool = False
    inject: bool = True
    conv_width: int = 64
    points: int = 4
    heads: int | None = None
    ratio: float = 0.5
    mlp_ratio: float = 0.25

    category = "side"
    paper = "Vision Transformer Adapter for Dense Predictions, ICLR 2023, 2205.08534"
    memory = "M2"
    needs_all_blocks = "its interactions share out all blocks among them"
    identity_at_start = False
    base_eval = True
    unverified = (
        "The counts that its paper prints; DINOv3's form beyond having no injectors and no gradient in the backbone "
        "(such as a norm on the ViT's maps)."
    )
    space = {"conv_width": [8, 16], "points": [2, 4]}

    def check(self, host: Host) -> None:
        name = self.registered_name()
        self.need_one_width(host)
        if "image" not in host.sites or host.frames_in == "tokens":
            raise UserError(f"{name}'s convolutions see an image; {host.registered_name()} is given patches or clips.")
        if self.pyramid and (host.frames_in or not host.reads_map):
            raise UserError(
                f"{name}: pyramid=True gives four maps of an image, and what reads this backbone takes none."
            )
        if not (self.inject or self.pyramid):
            raise UserError(
                f"{name}: without injectors no level reaches another's map: set pyramid=True, which reads all."
            )
        inner, heads, hidden = self.widths(host)
        if min(inner, hidden) < 1 or inner % heads:
            raise UserError(
                f"{name}: ratio={self.ratio} and mlp_ratio={self.mlp_ratio} give the widths {inner} and {hidden} on "
                f"{host.registered_name()}; they must be 1 or more, and the first a multiple of the {heads} heads."
            )

    def widths(self, host: Host) -> tuple[int, int, int]:
        """Width inside the attention, heads, hidden width of the FFN."""
        dim, heads = host.blocks[0].dim, self.heads or host.blocks[0].heads or 1
        return int(self.ratio * dim), heads, int(self.mlp_ratio * dim)

    def groups(self, host: Host) -> list[range]:
        """Indices of the blocks of each group."""
        blocks = len(host.blocks)
        count = min(4, blocks)
        cuts = [i * blocks // count for i in range(count + 1)]
        return [range(*pair) for pair in itertools.pairwise(cuts)]

    def level(self, host: Host) -> int | None:
        """Which of the four maps is given, where one is."""
        patch = math.log2(host.patch_size[0])
        nearest = min(range(len(STRIDES)), key=lambda i: abs(math.log2(STRIDES[i]) - patch))
        return None if self.pyramid else nearest + 1

    def out_maps(self, host: Host) -> list[tuple[int, float]] | None:
        return [(host.blocks[0].dim, stride) for stride in (4, *STRIDES)] if self.pyramid else None

    def build(self, host: Host) -> None:
        network, key = AdapterNetwork(self, host), host.method_key
        network.reset_parameters()
        host.keep(network, "network")
        host.place("image", "before", PriorRead(network, key), "look")
        for i, group in enumerate(self.groups(host)):
            if self.inject:
                host.blocks[group[0]].place("block", "before", InjectBefore(network, key, i), "inject")
            host.blocks[group[-1]].place("block", "after", ExtractBehind(network, key, i), "extract")
        host.place("norm.0", "after", GiveMaps(network, key), "give")

    def count(self, host: Host) -> int:
        dim, w, (inner, heads, hidden) = host.blocks[0].dim, self.conv_width, self.widths(host)
        groups, places = len(self.groups(host)), 3 * heads * self.points * (dim + 1)
        attention = 2 * dim * inner + inner + dim  # and `places` for each level
        injector = attention + len(STRIDES) * places + 5 * dim
        extractor = attention + places + 6 * dim + 2 * dim * hidden + dim + 11 * hidden
        convolutions = 9 * w * (host.image_channels + (2 + 2 + 8 + 16) * w) + 2 * w * (3 + 2 + 4 + 4)
        widen = 10 * w * dim + 3 * dim + 3 * dim  # with the vectors of the levels
        given = 2 * dim + self.pyramid * (w * dim + dim + 4 * dim * dim + dim + 6 * dim)
        return groups * self.inject * injector + (groups + EXTRA) * extractor + convolutions + widen + given
