"""Grad-CAM on the stream that enters a block: for every host, with a class token or without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.attach import attach
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.recording import blocks_of
from vpeft.core.backbones.sites.flow import roll
from vpeft.core.backbones.sites.layout import MAP_FIRST
from vpeft.core.backbones.sites.passes import FOLDS_CLIPS
from vpeft.errors import UserError


def gradcam(model: nn.Module, inputs: Tensor, target: int | None = None, block: int = -1) -> Tensor:
    """Grad-CAM (Selvaraju et al., 2017): ``relu(sum_c mean_tokens(d score / d x_c) x_c)`` of the map's tokens x.

    Args:
        model: A trained classifier in eval mode.
        inputs: Preprocessed images ``(B, 3, H, W)``, or clips as the model takes them.
        target: The class; each image's most probable one when None.
        block: The block that x enters, from the end where negative. Where the head reads a class token the stream
            behind the last block holds nothing else that it sees, so the default is the input of the last block.

    Returns:
        ``(B, *grid)``, in clips ``(B * clips, *grid)``, or ``(B * frames, *grid)`` where blocks see single frames; not
        negative.

    Raises:
        UserError: The model gives no class scores, or the block does not exist.
    """
    adaptation = get_adaptation(model)
    plain = adaptation is None
    if plain:
        (adaptation,) = attach(model, [])
    try:
        return _gradcam(model, adaptation.host, inputs, target, block)
    finally:
        if plain:
            adaptation.detach()


def _gradcam(model: nn.Module, host: Host, inputs: Tensor, target: int | None, index: int) -> Tensor:
    blocks_of(host)
    if not -len(host.blocks) <= index < len(host.blocks):
        raise UserError(f"no block {index}: {host.registered_name()} has the blocks 0 to {len(host.blocks) - 1}.")
    watch = _Watch(host, host.blocks[index])
    with torch.enable_grad(), watch:
        scores = _class_scores(model, inputs)
        best = scores.argmax(1) if target is None else torch.full_like(scores[:, 0], target, dtype=torch.long)
        (gradient,) = torch.autograd.grad(scores.gather(1, best[:, None]).sum(), watch.stream)
    stream, gradient = (watch.rows(t)[:, watch.own :] for t in (watch.stream.detach(), gradient))
    cam = (gradient.mean(1, keepdim=True) * stream).sum(-1).relu()
    if host.flow.frames_last:
        cam = cam.unflatten(-1, (-1, host.flow.frames)).transpose(1, 2).flatten(1)
    cam = roll(cam[..., None], watch.grid, watch.unrolled).flatten(1).unflatten(-1, watch.grid)
    return cam.unflatten(0, (-1, host.flow.folded)) if getattr(host.backbone, FOLDS_CLIPS, False) else cam


class _Watch:
    """Within its context, the block's input is the leaf that gradients are taken of; nothing below is recorded."""

    def __init__(self, host: Host, block: Block) -> None:
        self.host, self.module = host, block.module
        self.tokens_first = block.kind.tokens_first
        self.width, self.layout = block.dim_in, block.kind.site_layouts(block.module)[0]
        self.entered: Tensor | None = None

    def rows(self, stream: Tensor) -> Tensor:
        """``(B, N, C)`` of the tensor that enters the block, a stream or a map."""
        return self.last(stream).flatten(1, -2)

    def last(self, stream: Tensor) -> Tensor:
        """With the channels behind the map, and the batch before it."""
        stream = stream.transpose(0, 1) if self.tokens_first else stream
        return stream.movedim(1, -1) if self.channels_first else stream

    @property
    def channels_first(self) -> bool:
        """Whether the block takes a map ``(B, C, H, W)``; where all extents are equal, what its sites saw tells."""
        stream = self.stream
        if stream.dim() != 4 or self.layout is MAP_FIRST or stream.shape[-1] != self.width:
            return self.layout is MAP_FIRST or stream.shape[-1] != self.width
        seen = self.entered is not None and self.entered.dim() == 3 and stream.shape[1] == self.width
        return seen and torch.equal(stream.movedim(1, -1).flatten(1, 2), self.entered)

    def __enter__(self) -> None:
        enter = self.module.site_entered

        def kept(x: Tensor) -> None:
            self.entered = x.detach()
            enter(x)

        self.module.site_entered = kept
        self.hooks = [
            self.module.register_forward_pre_hook(self.take),
            self.module.register_forward_hook(self.look),
        ]

    def __exit__(self, *error: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        del self.module.site_entered

    def take(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.stream = args[0].detach().requires_grad_()
        return (self.stream, *args[1:])

    def look(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.grid, self.unrolled = self.host.flow.came  # the block may pool the map
        self.own = self.host.flow.own_prefix


def _class_scores(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits of preprocessed inputs, ``(B, classes)``: a clip's own where a sample has several, unlike its class."""
    options = {"stage": "head"} if hasattr(model, "cls_head") else {}
    scores = model(inputs, mode="tensor", **options)
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        raise UserError(f"{type(model).__name__} gives no class scores: Grad-CAM explains the score of a class.")
    return scores
