"""What placed modules may know of the forward pass that runs."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from vpeft.errors import UserError


class Flow:
    """What the placed modules may know of the forward pass that runs: one object per pass.

    Attributes:
        grid: Extents of the current token map: height and width, in video with the frames before them; empty where
            the tokens lie on no one map (some are hidden or shuffled, or images differ in size).
        frames_last: In the stream of a video the frames of each place stand together, not the places of each frame.
        apart: The frames of a video are streams of their own, clip by clip, as inside an attention in space.
        folded: Frames of a clip that are images of their own in the batch, clip by clip, all the way through; 1 for
            images and for videos whose frames lie in one stream, 0 where clips are expected and no pass said how long
            they are.
        aside: The block's attention runs on another stream of a method's, over time for one.
        unrolled: By which steps the map's tokens are sorted, as in Hiera: first by their places inside cells of the
            first step, inside those by their places in cells of the next, at last row by row; empty where they stand
            row by row alone.
        masked: A mask hides some tokens from the others, as it hides padding.
        came: ``grid`` and ``unrolled`` of what entered the current block, which may pool the map.
        prefix: Tokens that stand before the map in the stream (class token, registers, prompts).
        index: Index of the current block.
        state: Tensors that a method hands from one block to a later one, by method key and block index. The block
            index keeps it right when activation checkpointing runs a block a second time.
        maps: Maps ``(B, C, h, w)`` that a method gives in the place of the backbone's, to what reads several of them;
            None where it leaves those of the backbone.
        drawn: Seed of the noise of the pass, and its samples; None where nothing is noisy.
        shares: The same of each adapter, where a batch has several (:mod:`.shares`).
        with_graph: The pass began where autograd runs.
        ended: Nothing of the pass is to come.
        inside: The current block has not been left.
        left: Storage of the tensor that left the last block.
        waiting: Marks of the blocks just left that have no graph.
        number: Counts the passes that wait for one another.
    """

    def __init__(self) -> None:
        self.grid: tuple[int, ...] = (0, 0)
        self.frames_last = self.apart = self.masked = self.aside = False
        self.folded = 1
        self.unrolled: tuple[tuple[int, int], ...] = ()
        self.came: tuple[tuple[int, ...], tuple[tuple[int, int], ...]] = ((0, 0), ())
        self.own_prefix = 0
        self.prefix = 0
        self.index = -1
        self.state: dict[str, dict[int, Tensor]] = {}
        self.maps: tuple[Tensor, ...] | None = None
        self.drawn: tuple[int, int] | None = None
        self.shares: dict[Hashable, dict[str, dict[int, Tensor]]] = {}
        self.with_graph = False
        self.ended = False
        self.inside = False
        self.left: int | None = None
        self.waiting: list[Any] = []
        self.number = 0

    def begin(self, prefix: int, folded: int = 1) -> None:
        """Start a forward pass of a host whose stream has ``prefix`` tokens before the map."""
        self.own_prefix = self.prefix = prefix
        self.folded = folded
        self.state, self.shares = {}, {}

    def draw(self, seed: int | None, samples: int, again: bool = False) -> None:
        """Have a seed for the noise of the pass.

        Args:
            seed: The seed; None draws one.
            samples: Samples of the pass.
            again: Activation checkpointing runs the pass again.

        Raises:
            UserError: It runs all of it again, where the seed is not known any more.
        """
        if again:
            raise UserError(
                "the whole backbone is run again in backward, which draws other noise (consistency): checkpoint single "
                "blocks."
            )
        if seed is None:
            _say_alone()
            seed = int(torch.randint(2**31, ()))
        self.drawn = seed, samples

    def enter(self, index: int, grid: tuple[int, ...] | None = None) -> None:
        """Enter block ``index`` whose map has the extents ``grid`` (left as they are when None)."""
        self.index, self.inside, self.apart = index, True, False
        self.prefix = self.own_prefix
        if grid is not None:
            self.grid = tuple(int(size) for size in grid)

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the current token map.

        Raises:
            UserError: The tokens lie on no map.
        """
        if not self.grid:
            raise UserError(
                "the tokens of this pass lie on no one map (some are hidden, shuffled or of detections, or images are "
                "padded to one size), and a method looks at neighbours there: give whole images, or take another one."
            )
        return self.grid[-2:]

    def need_unmasked(self) -> None:
        """For what looks at all tokens by itself.

        Raises:
            UserError: A mask hides some.
        """
        if self.masked:
            raise UserError(
                "a mask hides some tokens of this pass, which lie on no one map (padding of images), and a method that "
                "looks at all tokens by itself would see them: give whole images without a mask, or take another one."
            )

    @property
    def frames(self) -> int:
        """Frames of the current token map; 1 for images, and where every frame is a stream of its own."""
        return 1 if self.apart else math.prod(self.grid[:-2])

    @property
    def clip_frames(self) -> int:
        """Frames of a clip, in one stream or each a stream of its own.

        Raises:
            UserError: Clips are expected, and no pass said how long they are.
        """
        if not self.folded:
            raise UserError(
                "the image backbone of a vpeft.ClipBackbone was called by itself, and a method looks at the frames of "
                "a clip there: call the vpeft.ClipBackbone, with clips (B, 3, T, H, W)."
            )
        return self.folded * math.prod(self.grid[:-2])

    def split_clips(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`split`, with the map of whole clips, ``(clips, C, T, H, W)``."""
        prefix, maps = self.split(x)
        return prefix, maps.unflatten(0, (-1, self.clip_frames)).transpose(1, 2)

    def join_clips(self, prefix: Tensor, clips: Tensor) -> Tensor:
        """The inverse of :meth:`split_clips`."""
        return self.join(prefix, clips.transpose(1, 2).flatten(0, 1))

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """While a method runs the block's norm and attention on a stream of its own, whose tokens lie on no map."""
        kept = self.grid, self.unrolled, self.prefix
        self.grid, self.unrolled, self.prefix, self.aside = (), (), 0, True
        try:
            yield
        finally:
            self.grid, self.unrolled, self.prefix = kept
            self.aside = False

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split a stream ``(B, prefix + H*W, C)`` into prefix tokens ``(B, prefix, C)`` and map ``(B, C, H, W)``.

        In video a stream holds ``frames * H * W`` tokens, and the frames are maps of their own, clip by clip:
        ``(B * frames, C, H, W)``.
        """
        tokens = roll(x[:, self.prefix :], self.grid, self.unrolled)
        if self.frames > 1:
            clips = tokens.unflatten(1, (-1, self.frames)).transpose(1, 2) if self.frames_last else tokens
            tokens = clips.reshape(len(x) * self.frames, -1, x.shape[-1])
        return x[:, : self.prefix], tokens.transpose(1, 2).unflatten(2, self.hw)

    def join(self, prefix: Tensor, spatial: Tensor) -> Tensor:
        """The inverse of :meth:`split`."""
        tokens = spatial.flatten(2).transpose(1, 2)
        if self.frames > 1:
            clips = tokens.unflatten(0, (-1, self.frames))
            tokens = (clips.transpose(1, 2) if self.frames_last else clips).flatten(1, 2)
        tokens = unroll(tokens, self.grid, self.unrolled)
        return torch.cat((prefix, tokens), dim=1) if prefix.shape[1] else tokens


@functools.cache
def _say_alone() -> None:
    """Say, once, that nothing compares two passes."""
    print_log(
        "consistency: this loop has its noise alone, without the loss that compares two passes: take it from "
        "vpeft.training_loss(model, criterion), or let a run add it (docs/options.md).",
        logger="current",
        level=logging.WARNING,
    )


def roll(tokens: Tensor, extents: tuple[int, ...], steps: tuple[tuple[int, int], ...]) -> Tensor:
    """Tokens ``(B, N, C)`` of a map that are sorted by ``steps`` (:attr:`Flow.unrolled`), row by row."""
    if not steps or not extents:
        return tokens
    count, rows, columns = len(steps), range(1, 2 * len(steps) + 2, 2), range(2, 2 * len(steps) + 3, 2)
    cells = tokens.reshape(len(tokens), *_cut(extents, steps), tokens.shape[-1])
    return cells.permute(0, *reversed(rows), *reversed(columns), 2 * count + 3).flatten(1, -2)


def unroll(tokens: Tensor, extents: tuple[int, ...], steps: tuple[tuple[int, int], ...]) -> Tensor:
    """The inverse of :func:`roll`."""
    if not steps or not extents:
        return tokens
    cut = _cut(extents, steps)
    height, width = cut[::2][::-1], cut[1::2][::-1]
    cells = tokens.reshape(len(tokens), *height, *width, tokens.shape[-1])
    order = [axis for i in range(len(height), 0, -1) for axis in (i, i + len(height))]
    return cells.permute(0, *order, 2 * len(height) + 1).flatten(1, -2)


def _cut(extents: tuple[int, ...], steps: tuple[tuple[int, int], ...]) -> list[int]:
    left = [size // math.prod(by) for size, by in zip(extents, zip(*steps, strict=True), strict=True)]
    return [*(n for step in steps for n in step), *left]
