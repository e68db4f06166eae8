"""LST: ladder side tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vpeft.algorithms.modules.stateless import Stateless
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block as PlainBlock

INITS = ("magnitude", "random")


class Ladder(nn.Module):
    """The side net: ``Dn_0(h_0)``; per block ``mu_i s + (1 - mu_i) Dn_i(h_i)`` and ``SideBlock_i(s)``; ``Up(LN s)``.

    Args:
        host: The host; pruned copies of its blocks start the side blocks.
        dim: Width d.
        temperature: T of ``mu_i = sigmoid(a_i / T)``.
        init: ``magnitude`` or ``random``.
    """

    starts_from_base = True

    def __init__(self, host: Host, dim: int, temperature: float, init: str) -> None:
        from timm.models.vision_transformer import Block as PlainBlock  # no other method needs timm

        super().__init__()
        self.host, self.dim, self.temperature, self.init = host, dim, temperature, init
        width = host.blocks[0].dim
        heads = math.gcd(host.blocks[0].heads, dim)
        self.down = nn.ModuleList(nn.Linear(width, dim) for _ in range(len(host.blocks) + 1))
        self.gate = nn.Parameter(torch.empty(len(host.blocks)))
        self.blocks = nn.ModuleList(PlainBlock(dim, heads, qkv_bias=True) for _ in host.blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)  # as in the side blocks and in ViT
        self.up = nn.Linear(dim, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gates zero (mu = 1/2); side blocks pruned from the host's, or as everything else torch's own start."""
        nn.init.zeros_(self.gate)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                module.reset_parameters()
        if self.init == "magnitude":
            with torch.no_grad():
                channels = strongest(sum(stream_strength(block) for block in self.host.blocks), self.dim)
                for block, side in zip(self.host.blocks, self.blocks, strict=True):
                    prune(block, side, channels)

    def start(self, h: Tensor) -> Tensor:
        return self.down[0](h)

    def step(self, index: int, s: Tensor, h: Tensor) -> Tensor:
        mu = torch.sigmoid(self.gate[index] / self.temperature)
        return self.blocks[index](mu * s + (1 - mu) * self.down[index + 1](h))

    def end(self, s: Tensor) -> Tensor:
        return self.up(self.norm(s))


def stream_strength(block: Block) -> Tensor:
    """Sum of the magnitudes of the weights that read or write each channel of the stream, ``(C,)``."""
    weight = {name: block.sites[name].module.weight.abs() for name in ("qkv", "proj", "fc1", "fc2")}
    return weight["qkv"].sum(0) + weight["proj"].sum(1) + weight["fc1"].sum(0) + weight["fc2"].sum(1)


def strongest(strength: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest, in order."""
    return strength.topk(count).indices.sort().values


def prune(block: Block, side: PlainBlock, channels: Tensor) -> None:
    """Copy into ``side`` the part of ``block`` on the stream's ``channels``, the strongest inner units of every head
    and the strongest hidden units.
    """
    qkv, proj, fc1, fc2 = (block.sites[name].module for name in ("qkv", "proj", "fc1", "fc2"))
    heads = side.attn.num_heads
    keep = len(channels) // heads
    q, k, v = (part.abs().sum(1).view(heads, -1) for part in qkv.weight.chunk(3))
    first = torch.arange(heads, device=q.device)[:, None] * q.shape[1]
    inner_qk = (first + torch.stack([strongest(s, keep) for s in q + k])).flatten()
    strength_v = v + proj.weight.abs().sum(0).view(heads, -1)
    inner_v = (first + torch.stack([strongest(s, keep) for s in strength_v])).flatten()
    rows = torch.cat((inner_qk, inner_qk + block.dim, inner_v + 2 * block.dim))
    hidden = strongest(fc1.weight.abs().sum(1) + fc2.weight.abs().sum(0), side.mlp.fc1.out_features)
    for target, source, out, inputs in (
        (side.attn.qkv, qkv, rows, channels),
        (side.attn.proj, proj, channels, inner_v),
        (side.mlp.fc1, fc1, hidden, channels),
        (side.mlp.fc2, fc2, channels, hidden),
    ):
        target.weight.copy_(source.weight[out[:, None], inputs])
        if source.bias is not None:
            target.bias.copy_(source.bias[out])
    for name, source in block.linears("norm1", "norm2"):
        getattr(side, name).weight.copy_(source.weight[channels])
        if getattr(source, "bias", None) is not None:  # an RMSNorm has none
            getattr(side, name).bias.copy_(source.bias[channels])


class LadderStart(Stateless):
    """Reads the embedded tokens."""

    def __init__(self, ladder: Ladder, key: str) -> None:
        super().__init__()
        self.ladder, self.key = (ladder,), key  # in a tuple, so that torch does not register it a second time

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.state.setdefault(self.key, {})[-1] = self.ladder[0].start(x)
        return x


class LadderStep(LadderStart):
    """Reads the output of its block."""

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.need_unmasked()
        state = flow.state[self.key]
        state[flow.index] = self.ladder[0].step(flow.index, state[flow.index - 1], x)
        return x


class LadderEnd(LadderStart):
    """Puts the side network's output in the place of the backbone's."""

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        state = flow.state[self.key]
        return self.ladder[0].end(state[max(state)])


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class LST(Method):
    """A small transformer of width ``d = D / reduction`` beside the frozen backbone, block by block; nothing of it
    flows back: ``s_0 = Dn_0(h_0)``; for i = 1..L ``s <- mu_i s + (1 - mu_i) Dn_i(h_i)``, ``mu_i = sigmoid(a_i / T)``,
    ``s <- SideBlock_i(s)``; the output ``Up(LN s)`` takes the place of the backbone's final tokens. h_0 are the
    embedded tokens, h_i the output of block i. Defined on hosts of one width.

    Args:
        reduction: D / d.
        temperature: T.
        init: ``magnitude`` starts the side blocks as the host's, cut down to the channels, inner units and hidden units
            with the largest weights; ``random`` as torch starts them. (The paper also has a Fisher criterion.)
    """

    reduction: int = 8
    temperature: float = 0.1
    init: str = "magnitude"

    category = "side"
    paper = "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning, NeurIPS 2022"
    space = {"reduction": [4, 8, 16], "init": ["magnitude", "random"]}
    memory = "M0"
    needs_all_blocks = "its ladder has a rung at every block"
    identity_at_start = False
    base_eval = True
    unverified = "There is no official version for ViT: side layers and head fit the published count."

    def check(self, host: Host) -> None:
        self.need_choice("init", INITS)
        self.need_one_width(host)
        self.need_square(host)
        if any(block.size("fc1")[1] != block.hidden for block in host.blocks):
            raise UserError(f"LST copies parts of plain MLPs, and those of {host.registered_name()} are gated.")
        self.need_divisor("reduction", host)

    def build(self, host: Host) -> None:
        dim = host.blocks[0].dim // self.reduction
        ladder, key = Ladder(host, dim, self.temperature, self.init), host.method_key
        host.keep(ladder, "ladder")
        host.blocks[0].place("block", "before", LadderStart(ladder, key), "start")
        for block in host.blocks:
            block.place("block", "after", LadderStep(ladder, key), "step")
        host.place("norm.0", "after", LadderEnd(ladder, key), "end")

    def count(self, host: Host) -> int:
        width, blocks = host.blocks[0].dim, len(host.blocks)
        d = width // self.reduction
        side = blocks * (12 * d * d + 13 * d) + (blocks + 1) * (width * d + d)
        return side + d * width + width + blocks + 2 * d
