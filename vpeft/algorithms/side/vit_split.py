"""ViT-Split."""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.modules.stateless import Stateless
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import PEFT_KEY, Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

#: Places that a 3x3 kernel looks at.
TAPS = 9


class DeformableConv(nn.Module):
    """A 3x3 convolution whose places move: ``y(p) = sum_k W_k x(p + p_k + o_k(p))``, ``o = Conv3x3(x)``, zeros outside.

    By bilinear sampling in torch alone, without a compiled operator. ``offsets`` gives (y, x) of each place in turn.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(dim, 2 * TAPS, 3, padding=1)
        self.weight = nn.Parameter(torch.empty(dim, dim, 3, 3))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform of bound ``1 / sqrt(9 C)``, the offsets as torch starts a convolution."""
        self.offsets.reset_parameters()
        bound = 1 / math.sqrt(TAPS * self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        batch, dim, height, width = x.shape
        wide = torch.promote_types(x.dtype, torch.float32)  # places of a large map are no numbers of half precision
        moved = self.offsets(x).to(wide).unflatten(1, (TAPS, 2))
        y, x_at, taps = (torch.arange(*n, device=x.device, dtype=wide) for n in ((height,), (width,), (-1, 2)))
        rows = y.view(1, 1, -1, 1) + taps.repeat_interleave(3).view(1, -1, 1, 1) + moved[:, :, 0]
        columns = x_at.view(1, 1, 1, -1) + taps.repeat(3).view(1, -1, 1, 1) + moved[:, :, 1]
        grid = torch.stack(((2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1), -1).flatten(1, 2)
        seen = F.grid_sample(x.to(wide), grid, padding_mode="zeros", align_corners=False).to(x.dtype)
        return torch.einsum("bckhw,ock->bohw", seen.view(batch, dim, TAPS, height, width), self.weight.flatten(2))


class SplitHead(nn.Module):
    """Copies of the last blocks on what enters the first of them, and the frozen maps, put together.

    Args:
        host: The host.
        tuned: Blocks that are copied, k.
        read: Indices of the blocks whose maps are read.
        block_lr: Learning rate of the copies over that of the convolutions.
    """

    starts_from_base = True

    def __init__(self, host: Host, tuned: int, read: tuple[int, ...], block_lr: float) -> None:
        super().__init__()
        self.lr_factors = {"blocks": block_lr}
        self.host, self.read, self.first = host, read, len(host.blocks) - tuned
        dim = host.blocks[0].dim
        self.blocks = nn.ModuleList(plain_copy(host, block) for block in host.blocks[self.first :])
        self.frozen = self.fuse(len(read) * dim, dim)
        self.fusion = self.fuse(2 * dim, dim)

    @staticmethod
    def fuse(inputs: int, dim: int) -> nn.Sequential:
        """``GELU(Deformable3x3(GELU(Conv1x1)))``."""
        return nn.Sequential(nn.Conv2d(inputs, dim, 1), nn.GELU(), DeformableConv(dim), nn.GELU())

    def reset_parameters(self) -> None:
        """The copies as the base's blocks are now, the convolutions as torch starts them."""
        with torch.no_grad():
            for own, block in zip(self.blocks, self.host.blocks[self.first :], strict=True):
                base = dict(block.module.named_parameters())
                for name, param in own.named_parameters():
                    param.copy_(base[name])
        for stage in (self.frozen, self.fusion):
            stage[0].reset_parameters()
            stage[2].reset_parameters()

    def forward(self, entered: Tensor, maps: list[Tensor], flow: Flow) -> Tensor:
        """The stream ``entered`` and frozen streams ``maps``, all ``(B, N, C)``, to the stream that is read."""
        norm = self.host.sites["norm.0"].alone
        for block in self.blocks:
            out = block(entered, **dict.fromkeys(needed_besides(block)))
            entered = out if isinstance(out, Tensor) else out[0]
        prefix, tuned = flow.split(self.host.run_base(norm, entered))
        frozen = self.frozen(torch.cat([flow.split(self.host.run_base(norm, x))[1] for x in maps], 1))
        return flow.join(prefix, self.fusion(torch.cat((frozen, tuned), 1)))


class SplitRead(Stateless):
    """Keeps the output of its block, without a graph."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.state.setdefault(self.key, {})[flow.index] = x.detach()
        return x


class SplitEnd(SplitRead):
    """Puts the head's map in the place of the backbone's."""

    def __init__(self, head: SplitHead, key: str) -> None:
        super().__init__(key)
        self.head = (head,)  # in a tuple, so that torch does not register it a second time

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.need_unmasked()
        (head,), kept = self.head, flow.state[self.key]
        return head(kept[head.first - 1], [kept[i] for i in head.read], flow)


def needed_besides(block: nn.Module) -> list[str]:
    """What a block must be called with besides its stream, such as a mask of transformers, which is None here."""
    _, *others = inspect.signature(block.forward).parameters.values()
    return [one.name for one in others if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]


def plain_copy(host: Host, block: Block) -> nn.Module:
    """A copy of a block as its library has it, with nothing of what runs its sites."""
    shared = (host.passes, block.sites, *block.sites.values())
    copied = copy.deepcopy(block.module, {id(one): one for one in shared})
    for module in copied.modules():
        module.__class__ = getattr(module, "plain_class", type(module))
        for name in [name for name in vars(module) if name.startswith("peft_")]:
            del module.__dict__[name]
        module._modules.pop(PEFT_KEY, None)
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    idle = {id(p.param) for p in host.parameters() if p.role == "unused"}
    for name in [name for name, param in block.module.named_parameters() if id(param) in idle]:
        place, _, leaf = name.rpartition(".")
        copied.get_submodule(place).register_parameter(leaf, None)  # it never runs
    return copied.requires_grad_(True)


@PEFT_METHODS.register_module(name="ViT-Split")
@dataclass(kw_only=True)
class ViTSplit(Method):
    """A head of the backbone's own blocks on a frozen ViT, for dense tasks; no gradient enters the backbone.

    With ``h_i`` the output of block i of L and ``N`` the frozen output norm: ``t = N(Block'_L(... Block'_{L-k+1}(
    h_{L-k})))`` by trained copies of the last k blocks; ``f = G(h)`` of the frozen maps ``N(h_i)`` of several depths
    side by side; the map that is read is ``G'([f, t])``. ``G(x) = GELU(D(GELU(Conv1x1(x))))``, D a deformable 3x3
    convolution with offsets of its own, all of the stream's width. Tokens before the map are those of ``t``.

    It gives one map: a neck or head makes others of it (the authors: two transposed convolutions of stride 2 and batch
    norm before the linear classifier of pixels, or four scales of it for Mask R-CNN).

    Args:
        tuned: Blocks that are copied, k; for ADE20K the authors have 3 on ViT-B.
        maps: Frozen maps that are read: of the last block, and of others at equal distances down to block ``start``.
        start: Block, from 0, of the first map; the authors' 2 on ViT-B.
        block_lr: Learning rate of the copied blocks over that of all else, as the authors' configs have it.
    """

    tuned: int = 2
    maps: int = 4
    start: int = 2
    block_lr: float = 0.1

    category = "side"
    paper = "ViT-Split: Unleashing the Power of Vision Foundation Models via Efficient Splitting Heads, ICCV 2025"
    memory = "M0"
    needs_all_blocks = "its head is of the last blocks, and reads maps of several depths"
    identity_at_start = False
    base_eval = True
    space = {"tuned": [1, 2], "maps": [1, 2]}
    limits = {"start": (0, 2**16)}

    def check(self, host: Host) -> None:
        self.need_one_width(host)
        self.need_attention(host)
        self.need_any_tokens(host, "runs a copy of a block's attention behind the backbone", "E3VA")
        if self.tuned >= len(host.blocks):
            raise UserError(f"ViT-Split: tuned={self.tuned} must be less than the host's {len(host.blocks)} blocks.")

    def read(self, host: Host) -> tuple[int, ...]:
        """Indices of the blocks whose maps are read; fewer where the host has not so many."""
        last = len(host.blocks) - 1
        start = min(self.start, last)
        gaps = max(1, self.maps - 1)
        found = [last] if self.maps == 1 else [start + int(i * (last - start) / gaps) for i in range(self.maps)]
        return tuple(sorted(set(found)))

    def build(self, host: Host) -> None:
        head, key = SplitHead(host, self.tuned, self.read(host), self.block_lr), host.method_key
        host.keep(head, "head")
        for index in sorted({*head.read, head.first - 1}):
            host.blocks[index].place("block", "after", SplitRead(key), "read")
        host.place("norm.0", "after", SplitEnd(head, key), "end")

    def count(self, host: Host) -> int:
        dim, first = host.blocks[0].dim, len(host.blocks) - self.tuned
        copies = {id(block.module) for block in host.blocks[first:]}
        own = (p for p in host.parameters() if p.block is not None and p.role != "unused")
        blocks = sum(p.param.numel() for p in own if id(p.block.module) in copies)
        deformable = TAPS * dim * dim + 2 * TAPS * (TAPS * dim + 1)
        return blocks + (len(self.read(host)) + 2) * dim * dim + 2 * dim + 2 * deformable
