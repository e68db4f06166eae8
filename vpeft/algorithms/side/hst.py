"""HST: hierarchical side tuning."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpeft.algorithms.modules.stateless import Stateless
from vpeft.algorithms.prompt.vpt import Prompts
from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.backbones.sites.site import channels_first, channels_last
from vpeft.core.backbones.sites.stated_linear import bias_size
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS

WIDTHS, HEADS = (32, 48, 64, 72), (2, 4, 8, 12)
#: Of the norms that the authors' ViT gives its own to; the others have torch's.
EPS = 1e-6


class SideBlock(nn.Module):
    """``x + DP(CrossAttn(LN x; [u; g]))``, ``x + F``, ``x + DP(MLP(LN x))`` on side tokens x (B, n, w)."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        from timm.layers import DropPath  # no other method needs timm

        super().__init__()
        self.heads = heads
        self.token_norm = nn.LayerNorm(width)
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Tensor, context: Tensor) -> Tensor:
        """Queries from x, keys and values from ``context`` (B, 2, w)."""
        q, k, v = self.query(x), *self.key_value(context).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, meta: Tensor, features: Tensor) -> Tensor:
        context = torch.cat((self.token_norm(meta), features.mean(1, keepdim=True)), dim=1)
        x = x + self.drop_path(self.attend(self.norm1(x), context)) + features
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SideStage(nn.Module):
    """Entry (stem or down-sampling), bridge from the host's width, and the side blocks of some blocks of the host."""

    def __init__(self, stage: int, channels: int, dim: int, drop_paths: list[float]) -> None:
        super().__init__()
        width = WIDTHS[stage]
        self.first = stage == 0
        if self.first:
            self.conv = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
            self.batch_norm = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 2, stride=2)
        else:
            self.conv = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.norm_in = nn.LayerNorm(width)
        self.bridge = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(SideBlock(width, HEADS[stage], drop) for drop in drop_paths)
        self.norm_out = nn.LayerNorm(width, eps=EPS)

    def enter(self, x: Tensor) -> Tensor:
        """Image or map ``(B, C, H, W)`` to this stage's map, channels last."""
        x = self.conv(x)
        if self.first:
            x = self.conv2(F.relu(self.batch_norm(x)))
        return self.norm_in(channels_last(x))

    def step(self, index: int, x: Tensor, meta: Tensor, spatial: Tensor) -> Tensor:
        """Side block ``index`` on a map (B, h, w, width), fed with the meta token and the host's map (B, D, H, W).

        In video every frame is a map of its own (B * frames), and the clip's meta token goes to each.
        """
        meta, spatial = self.bridge(meta), channels_first(self.bridge(channels_last(spatial)))
        meta = meta.repeat_interleave(len(spatial) // len(meta), dim=0)
        # The bridge is linear and the weights of the resizing add up to 1: in this order it is cheaper.
        spatial = F.interpolate(spatial, x.shape[1:3], mode="bilinear", align_corners=False)
        y = self.blocks[index](x.flatten(1, 2), meta, spatial.flatten(2).transpose(1, 2))
        if index == len(self.blocks) - 1:
            y = self.norm_out(y)
        return y.view(x.shape)


class SideNetwork(nn.Module):
    """All stages, and the read-out's batch norm (without affine)."""

    def __init__(self, channels: int, dim: int, counts: list[int], drop_path: float) -> None:
        super().__init__()
        inputs = (channels, *WIDTHS)
        drop_paths = iter(torch.linspace(0, drop_path, sum(counts)).tolist())
        self.stages = nn.ModuleList(
            SideStage(s, inputs[s], dim, list(itertools.islice(drop_paths, n))) for s, n in enumerate(counts)
        )
        self.batch_norm = nn.BatchNorm1d(WIDTHS[len(counts) - 1], eps=EPS, affine=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Linears truncated normal of std 0.02, convolutions normal with fan-out, norms as torch starts them."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)):
                module.reset_parameters()


class SideModule(Stateless):
    """A place at which the side network acts; refers to it."""

    def __init__(self, network: SideNetwork, key: str, position: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.network, self.key, self.position = (network,), key, position  # in a tuple: not registered a second time


class Stem(SideModule):
    """Reads the image at the patch embedding, which goes on untouched; a clip as the frames of its tubelets."""

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        images = x if x.dim() == 4 else x.unflatten(2, (y.shape[1], -1)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
        flow.state.setdefault(self.key, {})[-1] = self.network[0].stages[0].enter(images)
        return y


class Step(SideModule):
    """Takes the meta token out of the stream behind a block and runs the side block."""

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        stage, index = self.position
        spatial = flow.split(x)[1]  # of the tensor that the meta token is in: one is kept, not two
        flow.prefix -= 1
        at, state = flow.prefix, flow.state[self.key]
        meta, x = x[:, at : at + 1], torch.cat((x[:, :at], x[:, at + 1 :]), dim=1)
        module, side = self.network[0].stages[stage], state[flow.index - 1]
        if index == 0 and stage:
            side = module.enter(channels_first(side))
        inputs = index, side, meta, spatial
        # Some hundredths of the host's own pass, which keep fourteen times the side tokens unless they run again.
        again = torch.is_grad_enabled() and not in_program()
        state[flow.index] = checkpoint(module.step, *inputs, use_reentrant=False) if again else module.step(*inputs)
        return x


class ReadOut(SideModule):
    """Mean over the last stage's map through the batch norm; every token of the output is this one vector."""

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        state = flow.state[self.key]
        pooled = state[max(state)].mean((1, 2)).unflatten(0, (-1, flow.frames)).mean(1)
        features = self.network[0].batch_norm(pooled)
        return features[:, None].expand(-1, flow.own_prefix + 1, -1)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class HST(Method):
    """A pyramid of four stages beside a plain ViT: widths 32, 48, 64, 72 on strides 4, 8, 16, 32, the blocks of the
    host shared out among them. In every block a trained meta token goes along and comes out as t_i; f_i is the map.
    With the stage's bridge B (linear D to w): ``u = LN B t_i``, ``F = B(resize(f_i))``, g the mean token of F;
    ``x <- x + DP(CrossAttn(LN x; [u; g]))``, ``x <- x + F``, ``x <- x + DP(MLP(LN x))``. The read-out is the mean of
    the last stage through a batch norm without affine, so the head has ``72`` inputs (fewer blocks than stages: fewer).
    The norms of all blocks of the host are trained too; the final one is not. The published 0.78 M are 764,840 numbers
    on ViT-B and the mean head of the five data sets of FGVC.

    Args:
        drop_path: Of the last side block, from 0 at the first in equal steps. The authors' flag is the ViT's too.
    """

    drop_path: float = 0.0

    category = "side"
    paper = "Hierarchical Side-Tuning for Vision Transformers, 2310.05393"
    space = {"drop_path": [0.0, 0.1, 0.2]}
    identity_at_start = False
    needs_all_blocks = "its pyramid shares out all blocks among its stages"

    def check(self, host: Host) -> None:
        self.need_one_width(host)
        self.need_tokens(host)
        self.need_vector(host)
        self.need_image(host)

    def counts(self, host: Host) -> list[int]:
        """Blocks of each stage."""
        stages, blocks = min(len(WIDTHS), len(host.blocks)), len(host.blocks)
        return [(s + 1) * blocks // stages - s * blocks // stages for s in range(stages)]

    def out_width(self, host: Host) -> int:
        return WIDTHS[len(self.counts(host)) - 1]

    def trains(self, param: HostParam) -> bool:
        return param.block is not None and param.role in ("norm_weight", "norm_bias")

    def build(self, host: Host) -> None:
        counts, key, dim = self.counts(host), host.method_key, host.blocks[0].dim
        network = SideNetwork(host.in_channels, dim, counts, self.drop_path)
        host.keep(network, "network")
        host.place("patch_embed", "parallel", Stem(network, key), "stem")
        positions = [(stage, index) for stage, count in enumerate(counts) for index in range(count)]
        for block, position in zip(host.blocks, positions, strict=True):
            bound = math.sqrt(6 / (2 * dim))  # Xavier's of a tensor (1, 1, D)
            block.place("block", "before", Prompts(1, dim, bound, 0.0), "meta")
            block.place("block", "after", Step(network, key, position), "step")
        host.place("norm.0", "after", ReadOut(network, key), "read_out")

    def count(self, host: Host) -> int:
        dim, counts = host.blocks[0].dim, self.counts(host)
        norms = [module for b in host.blocks for _, module in b.linears("norm1", "norm2")]
        total = len(host.blocks) * dim + sum(m.weight.numel() + bias_size(m) for m in norms)  # meta tokens, norms
        total += sum(p.param.numel() for p in host.parameters() if p.site is None and self.trains(p))
        for stage, (w, n) in enumerate(zip(WIDTHS, counts, strict=False)):
            below = WIDTHS[stage - 1] if stage else host.in_channels
            # The stem has no bias in its first convolution, and a batch norm and a second convolution behind it.
            entry = 9 * below * w + (w if stage else 2 * w + 4 * w * w + w) + 2 * w
            total += entry + dim * w + w + n * (12 * w * w + 13 * w + 2 * w) + 2 * w
        return total
