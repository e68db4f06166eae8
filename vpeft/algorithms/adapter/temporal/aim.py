"""AIM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.algorithms.modules.bottleneck import Bottleneck
from vpeft.core.backbones.block import Block, HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS


class AIMAdapter(Bottleneck):
    """``A(x) = W_up GELU(W_dn x + b_dn) + b_up``, with ``W_up`` zero at the start."""

    def reset_parameters(self) -> None:
        """W_dn truncated normal of std 0.02, all else zero."""
        super().reset_parameters()
        nn.init.trunc_normal_(self.down.weight, std=0.02)


class SpatialAdapter(AIMAdapter):
    """``y + A_S(y)`` on what the attention gives."""

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        return y + super().forward(y)


class JointAdapter(AIMAdapter):
    """``s DP(A_M(n))`` beside the MLP."""

    def __init__(self, dim: int, width: int, scale: float, drop_path: float) -> None:
        super().__init__(dim, width)
        self.scale, self.drop_path = scale, drop_path

    def forward(self, n: Tensor, flow: Flow) -> Tensor:
        return drop_places(self.scale * super().forward(n), self.drop_path, self.training)


class TemporalAdapter(nn.Module):
    """``x + DP(A_T(MHSA(A_in(LN1 x^T))))``, with the block's own norm and attention over the frames of each place.

    Args:
        host: The host.
        block: The block.
        width: Of the adapters.
        drop_path: Rate of DropPath.
        two: Whether there is ``A_in(z) = z + A(z)`` before the attention.
    """

    def __init__(self, host: Host, block: Block, width: int, drop_path: float, two: bool) -> None:
        super().__init__()
        self.host, self.index, self.drop_path = host, block.index, drop_path
        self.out = AIMAdapter(block.dim, width)
        self.into = AIMAdapter(block.dim, width) if two else None

    def reset_parameters(self) -> None:
        """As the adapters."""
        for adapter in self.children():
            adapter.reset_parameters()

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.need_unmasked()
        block, run = self.host.blocks[self.index].module, self.host.run_base
        over_time = x.unflatten(0, (-1, flow.clip_frames)).transpose(1, 2).flatten(0, 1)  # (clips * places, frames, C)
        with flow.beside():
            n = run(block.site_norm1, over_time)
            y = self.out(run(block.site_attention, n if self.into is None else n + self.into(n)))
        y = y.unflatten(0, (-1, x.shape[1])).transpose(1, 2).flatten(0, 1)
        return x + drop_places(y, self.drop_path, self.training)


class TimeEmbedding(nn.Module):
    """``x + E_t`` for every token of frame t, ``E`` of the shape (frames, dim), zero at the start."""

    def __init__(self, frames: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(frames, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero."""
        nn.init.zeros_(self.table)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        frames = len(self.table)
        if flow.clip_frames != frames:
            raise UserError(
                f"AIM has learned positions of {frames} frames, and a clip of {flow.clip_frames} came: give clips of "
                f"{frames}, or attach it with frames={flow.clip_frames}."
            )
        return (x.unflatten(0, (-1, frames)) + self.table[:, None]).flatten(0, 1)


def drop_places(y: Tensor, rate: float, training: bool) -> Tensor:
    """``y`` (B, N, C) with a share of its N places left out in the whole batch, the others scaled up."""
    if not training or not rate:
        return y
    kept = torch.rand(y.shape[1], 1, dtype=y.dtype, device=y.device) >= rate
    return y * kept / (1 - rate)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class AIM(Method):
    """Per block, on frames that stand in the batch: ``x <- x + DP(A_T(MHSA(LN1 x^T)))`` over the frames of each place,
    by the same frozen attention; ``x <- x + y + A_S(y)`` with ``y = MHSA(LN1 x)``;
    ``x <- x + MLP(n) + DP(s A_M(n))`` with ``n = LN2 x``; and before the first block an embedding of the time.

    ``A(z) = W_up GELU(W_dn z + b_dn) + b_up``. The output norm is trained. It needs an image ViT on frames
    (``vpeft.ClipBackbone``) whose attention knows no places; video backbones attend over time by themselves.

    DropPath leaves out places of the map, alike in all frames and clips of a batch, since the authors' blocks have the
    tokens before the batch; it grows from 0 at the first block to ``drop_path`` at the last.

    Args:
        bottleneck: Width of the adapters; None means a quarter of the stream's, 192 on ViT-B.
        frames: Frames of a clip, T.
        scale: s; 1 for Something-Something v2, 0.5 for Kinetics-400.
        drop_path: Rate of DropPath at the last block.
        temporal: Temporal adapters of a block: 1, or 2 with one before the attention too (Something-Something v2).
    """

    bottleneck: int | None = None
    frames: int = 8
    scale: float = 0.5
    drop_path: float = 0.2
    temporal: int = 1

    category = "adapter"
    needs_frames = ("batch",)
    paper = "AIM: Adapting Image Models for Efficient Video Action Recognition, ICLR 2023"
    space = {"bottleneck": [8, 16, 32, 64], "scale": [0.5, 1.0], "drop_path": [0.0, 0.2]}
    limits = {"temporal": (1, 2)}
    unverified = "Values for Kinetics-400; equation, start and the values for Something-Something v2 are the authors'."

    def check(self, host: Host) -> None:
        self.need_attention(host)
        self.need_any_tokens(host, "runs a block's attention over time", "ST-Adapter")
        if self.bottleneck is not None:
            self.need_width("bottleneck", host)

    def width(self, block: Block) -> int:
        """Width of a block's adapters."""
        return self.bottleneck or block.dim // 4

    def build(self, host: Host) -> None:
        if self.is_first(host):
            embedding = TimeEmbedding(self.frames, host.blocks[0].dim)
            if "pre_norm" in host.sites:
                host.place("pre_norm", "before", embedding, "time")
            else:
                host.blocks[0].place("block", "before", embedding, "time")
        rates = torch.linspace(0, self.drop_path, len(host.whole.blocks)).tolist()
        for block in host.blocks:
            width, rate = self.width(block), rates[block.index]
            temporal = TemporalAdapter(host.whole, block, width, rate, self.temporal == 2)
            block.place("block", "before", temporal, "temporal")
            block.place("attn_branch", "after", SpatialAdapter(block.dim, width), "spatial")
            block.place("mlp_branch", "parallel", JointAdapter(block.dim, width, self.scale, rate), "joint")

    @staticmethod
    def is_first(host: Host) -> bool:
        """Whether the first block is one of those that the method is in: the embedding of the time goes with it."""
        return host.blocks[0].index == 0

    def trains(self, param: HostParam) -> bool:
        return param.site is not None and (param.site.startswith("norm.") or param.site == "pool_norm")

    def count(self, host: Host) -> int:
        adapters = sum((2 + self.temporal) * Bottleneck.count(b.dim, self.width(b)) for b in host.blocks)
        norm = sum(p.param.numel() for p in host.parameters() if self.trains(p))
        return adapters + self.is_first(host) * self.frames * host.blocks[0].dim + norm
