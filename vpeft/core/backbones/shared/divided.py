"""Attention divided into time and space, as TimeSformer has it: several libraries do."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.sites.flow import Flow
from vpeft.errors import UserError


class DividedBlock(SiteBlock):
    """A block of three units; its attention over time stays as it is, and that in space is its attention.

    The attention over time is of the map's tokens alone. In space every frame gets the tokens before the map, which are
    averaged over the frames behind it: the class token as the backbone has it, and prompts alike. What is placed at the
    attention and its norm sees each frame as a stream of its own, ``(B * T, prefix + H*W, C)``.
    """

    frames_last = frames_apart = True

    @property
    def site_frames(self) -> int:
        """Frames of a clip."""
        raise NotImplementedError(f"{type(self).__name__} states no frames")

    def site_time(self, x: Tensor) -> Tensor:
        """What the attention over time adds to the map's tokens ``(B * H*W, T, C)``."""
        raise NotImplementedError(f"{type(self).__name__} states no attention over time")

    def site_start(self, x: Tensor) -> Tensor:
        flow, first = self.peft_flow, self.peft_flow.prefix
        if flow.frames != self.site_frames or flow.frames * flow.hw[0] * flow.hw[1] != x.shape[1] - first:
            raise UserError(
                f"the map of this pass, {'x'.join(map(str, flow.grid))}, is not one of {self.site_frames} frames, "
                "which the blocks divide it into: give clips of so many."
            )
        tokens = x[:, first:]
        added = self.site_time(tokens.reshape(-1, self.site_frames, x.shape[-1])).reshape(tokens.shape)
        return torch.cat((x[:, :first], tokens + added), dim=1)

    def site_apart(self, x: Tensor) -> Tensor:
        """The stream as one for each frame, ``(B * T, prefix + H*W, C)``."""
        flow, frames = self.peft_flow, self.site_frames
        first, tokens = x[:, : flow.prefix], x[:, flow.prefix :]
        first = first.repeat(1, frames, 1).reshape(-1, flow.prefix, x.shape[-1])
        tokens = tokens.unflatten(1, (-1, frames)).transpose(1, 2).flatten(0, 1)
        flow.apart = True
        return torch.cat((first, tokens), dim=1)

    def site_add(self, x: Tensor, y: Tensor) -> Tensor:
        flow, frames = self.peft_flow, self.site_frames
        if not flow.apart:
            return x + y
        flow.apart = False
        first, tokens = y[:, : flow.prefix], y[:, flow.prefix :]
        first = first.reshape(-1, frames, *first.shape[1:]).mean(1)
        tokens = tokens.unflatten(0, (-1, frames)).transpose(1, 2).flatten(1, 2)
        return x + torch.cat((first, tokens), dim=1)

    def site_places(self) -> Tensor | None:
        return frame_places(self.peft_flow)


def frame_places(flow: Flow) -> Tensor | None:
    """Where on the map of a clip the tokens of each frame lie, ``(T, H*W)``, or those of the clip, ``(1, T*H*W)``."""
    if len(flow.grid) < 3:
        return None
    numbers = torch.arange(math.prod(flow.grid)).view(-1, math.prod(flow.hw))
    return numbers if flow.apart else numbers.t().reshape(1, -1)
