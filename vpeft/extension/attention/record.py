"""Attention as the hosts compute it: recorded at the sites, and made into maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.attach import attach
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.block_forward import QKV, Scores, SiteBlock
from vpeft.core.backbones.recording import blocks_of
from vpeft.errors import UserError


@dataclass
class Attention:
    """The attention of one block: ``softmax`` of the host's own scores of the queries and keys that methods left.

    Attributes:
        block: The block's index.
        weights: ``(B, heads, queries, keys)``; rows sum to one. With windows ``B`` counts them, image by image.
        grid: Extents of the token map: height and width, in video with the frames before them.
        own: Tokens of the host that stand first in the stream (class token, registers).
        prefix: All tokens of the stream that stand before the map: the host's own, then prompts.
        places: With windows ``(nW, N)``: where on the map the tokens of each window lie, -1 for padding.
    """

    block: int
    weights: Tensor
    grid: tuple[int, ...]
    own: int
    prefix: int
    places: Tensor | None = field(default=None, repr=False)

    @property
    def extra(self) -> int:
        """Keys that are no tokens of the stream (prefixes); they stand first."""
        return self.weights.shape[-1] - self.weights.shape[-2]

    @property
    def images(self) -> int:
        """Images (in video clips) that the weights are of."""
        return self.weights.shape[0] // (1 if self.places is None else len(self.places))

    def among_tokens(self) -> Tensor:
        """Attention of map tokens for map tokens, ``(images, heads, N, N)``, 0 across windows."""
        weights = self.weights[:, :, self.prefix :, self.extra + self.prefix :]
        if self.places is None:
            return weights
        count, heads, size = len(self.places), weights.shape[1], self.grid_size
        whole = weights.new_zeros(self.images, heads, size + 1, size + 1)  # the last row and column take the padding
        weights = weights.unflatten(0, (self.images, count))
        for window, place in enumerate(self.places):
            whole[:, :, place[:, None], place[None, :]] = weights[:, window]
        return whole[..., :-1, :-1]

    @property
    def grid_size(self) -> int:
        """Tokens of the map."""
        return int(torch.Size(self.grid).numel())

    def of_class_token(self) -> Tensor:
        """What the class token gives to each token of the map, ``(images, heads, *grid)``.

        Raises:
            UserError: The host has no class token.
        """
        if not self.own:
            raise UserError(
                "this host has no class token: look at the attention that tokens receive (received), at rollout where "
                "all blocks attend over the whole map, or at Grad-CAM (gradcam)."
            )
        weights = self.weights[:, :, 0, self.extra + self.prefix :]
        if self.places is not None:  # it is averaged over the windows
            whole = weights.new_zeros(self.images, weights.shape[1], self.grid_size + 1)
            for window, place in enumerate(self.places):
                whole[:, :, place] = weights[window :: len(self.places)] / len(self.places)
            weights = whole[..., :-1]
        return self._on_map(weights)

    def received(self) -> Tensor:
        """What each token of the map receives from all tokens of the map, ``(images, heads, *grid)``.

        1 is what a token would receive if all gave evenly, and only to the map; windowed attention is put back to
        where its tokens lie.
        """
        return self._on_map(self.among_tokens().sum(-2))

    def of_token(self, place: Sequence[int]) -> Tensor:
        """What one token of the map gives, ``(images, heads, *grid)``.

        Args:
            place: Its row and column, in video the frame before them, from 0.

        Raises:
            UserError: The place lies outside the map.
        """
        if len(place) != len(self.grid) or not all(0 <= p < size for p, size in zip(place, self.grid, strict=True)):
            raise UserError(f"no token at {tuple(place)}: the map of block {self.block} is {self.grid}, from 0.")
        number = 0
        for p, size in zip(place, self.grid, strict=True):
            number = number * size + p
        return self._on_map(self.among_tokens()[:, :, number])

    def _on_map(self, values: Tensor) -> Tensor:
        if not self.grid:
            raise UserError("the tokens of this pass lie on no one map (hidden, shuffled, padded): give whole images.")
        return values.unflatten(-1, self.grid)

    def shares(self) -> dict[str, float]:
        """How the class token's attention, or without one that of the map's tokens, is spread, summing to one.

        ``map``, with windows its padding included; ``own`` tokens of the host; ``added`` by methods, as prefixes and
        prompts. Means over images and heads.
        """
        rows = self.weights[:, :, :1] if self.own else self.weights[:, :, self.prefix :]
        edges = (self.extra, self.extra + self.own, self.extra + self.prefix)
        added, own, prompts, tokens = (part.sum(-1) for part in rows.tensor_split(edges, dim=-1))
        total = {"map": tokens, "own": own, "added": added + prompts}
        return {name: float(part.mean()) for name, part in total.items()}


class AttentionRecorder:
    """Keeps the attention of chosen blocks, the last pass's where a block runs again."""

    def __init__(self, blocks: Sequence[int]) -> None:
        self.blocks = set(blocks)
        self.kept: dict[int, Attention] = {}

    def __call__(self, block: SiteBlock, qkv: QKV, scores: Scores) -> None:
        """Called by a block with what its attention is computed from."""
        if block.peft_index not in self.blocks:
            return
        if not block.site_is_even:
            raise UserError(
                f"block {block.peft_index} attends to a reduced map, from pooled queries or among channels: queries "
                "and keys are not of the same tokens, and there is no map of it. Grad-CAM looks at its input."
            )
        flow = block.peft_flow
        with torch.no_grad():
            weights = scores(qkv.q, qkv.k).softmax(dim=-1).detach()
            grid, places = _of_clips(flow.grid, block.site_places(), block.peft_passes.folded)
        self.kept[block.peft_index] = Attention(block.peft_index, weights, grid, flow.own_prefix, flow.prefix, places)


def _of_clips(grid: tuple[int, ...], places: Tensor | None, frames: int) -> tuple[tuple[int, ...], Tensor | None]:
    """Extents and places of the map of a whole clip, where its frames are images of their own in the batch."""
    if frames <= 1 or not grid:
        return grid, places
    size = math.prod(grid)
    own = torch.arange(size)[None] if places is None else places
    each = [torch.where(own < 0, own, own + frame * size) for frame in range(frames)]
    return (frames, *grid), torch.cat(each)


@contextmanager
def record_attention(model: nn.Module, blocks: Sequence[int] | None = None) -> Iterator[Mapping[int, Attention]]:
    """Within the context every pass of the model fills the yielded mapping, block by block, with its attention.

    Nothing else changes: outputs are bit-equal, and fused attention kernels stay in use. Outside of it nothing is
    computed.

    Args:
        model: A model that contains a host, with methods attached or not.
        blocks: Indices of blocks, from the end where negative; all of them when None.

    Raises:
        UserError: No host is found, or a block does not exist.
    """
    adaptation = get_adaptation(model)
    plain = adaptation is None
    if plain:
        (adaptation,) = attach(model, [])
    host = adaptation.host
    try:
        count = len(blocks_of(host))
        chosen = range(count) if blocks is None else blocks
        for index in chosen:
            if not -count <= index < count:
                raise UserError(f"no block {index}: {host.registered_name()} has the blocks 0 to {count - 1}.")
        recorder = AttentionRecorder([index % count for index in chosen])
        host.passes.recorder = recorder
        yield recorder.kept
    finally:
        host.passes.recorder = None
        if plain:
            adaptation.detach()


def rollout(attentions: Mapping[int, Attention]) -> Tensor:
    """Attention rollout (Abnar and Zuidema, 2020): ``prod_l (A_l + I) / 2``, A the mean over heads.

    It runs among the host's own tokens and the map's. What goes to prefixes and prompts, which bring nothing of the
    image from the blocks below (those of VPT-Shallow a little), is left out, and rows are scaled to sum to one.

    Args:
        attentions: All blocks' attention by index (:func:`recording`).

    Returns:
        ``(images, own + N, own + N)``: how much of every token at the input is in each token at the output.

    Raises:
        UserError: The blocks do not attend over one map, as in hosts with windows.
    """
    product = None
    for index in sorted(attentions):
        attention = attentions[index]
        if attention.places is not None:
            raise UserError(
                "rollout needs blocks that all attend over the whole map; this host has windows and stages: look at "
                "the attention inside windows (received) or at Grad-CAM (gradcam)."
            )
        matrix = _stream(attention.weights, attention)
        matrix = (matrix + torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)) / 2
        product = matrix if product is None else matrix @ product
    return product


def _stream(weights: Tensor, attention: Attention) -> Tensor:
    """Mean over heads among own tokens and map, ``(images, T, T)``, rows summing to one."""
    own, prefix, extra = attention.own, attention.prefix, attention.extra
    rows = torch.cat((weights[:, :, :own], weights[:, :, prefix:]), dim=2)
    matrix = torch.cat((rows[..., extra : extra + own], rows[..., extra + prefix :]), dim=3).mean(1)
    return matrix / matrix.sum(-1, keepdim=True)


def rollout_map(attentions: Mapping[int, Attention]) -> Tensor:
    """Rollout to the class token, or to the mean of all tokens where there is none, as a map ``(images, *grid)``."""
    last = attentions[max(attentions)]
    product = rollout(attentions)
    row = product[:, 0] if last.own else product.mean(1)
    return row[:, last.own :].unflatten(-1, last.grid)
