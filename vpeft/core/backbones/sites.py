"""Sites: the named places of a backbone at which methods put their modules.

A site is either a module that the backbone really calls (reached by forward hooks) or a place between modules (run by
the block's re-stated forward, :mod:`vpeft.core.backbones.blocks`). Modules are placed

* ``before``: ``x <- f(x, flow)``, then the site's operation;
* ``around`` (branches only): the operation becomes ``f.around(operation, x, flow)``;
* ``parallel``: ``y <- y + f(x, flow)`` with the operation's input ``x`` and output ``y``;
* ``after``: ``y <- f(y, flow)``;
* ``beside`` (branches only): ``y <- DP(y) + DP(f(x, flow))``, with a DropPath draw of its own;
* ``late`` (branches only): ``y <- f(DP(y), flow)``;
* ``shortcut`` (residual sites only): the identity path becomes ``f(x, flow)``.

``parallel`` and ``after`` modules are applied in the order in which they were placed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

PLACEMENTS = ("before", "around", "parallel", "after", "beside", "late", "shortcut")
#: What a site that is a module takes, and what a whole branch takes.
MODULE_PLACEMENTS = ("before", "parallel", "after")
BRANCH_PLACEMENTS = ("around", "parallel", "after", "beside", "late")


class Flow:
    """What the placed modules may know of the forward pass that runs: one object per host.

    Attributes:
        grid: Extents of the current token map: height and width, in video with the frames before them.
        prefix: Tokens that stand before the map in the stream (class token, registers, prompts).
        index: Index of the current block.
        enabled: False while the adapter is switched off: every site then is its plain operation.
        state: Tensors that a method hands from one block to a later one, by method key and block index. The block
            index keeps it right when activation checkpointing runs a block a second time.
        recorder: Is shown every block's attention as it is computed (:meth:`SiteBlock.site_core`); None records
            nothing and costs nothing.
    """

    def __init__(self) -> None:
        self.grid: tuple[int, ...] = (0, 0)
        self.own_prefix = 0
        self.prefix = 0
        self.index = -1
        self.enabled = True
        self.state: dict[str, dict[int, Tensor]] = {}
        self.recorder: Callable[..., None] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Flow:
        """A fresh flow with the same switch: tensors of a running graph cannot and need not be copied."""
        copy = memo[id(self)] = Flow()
        copy.grid, copy.own_prefix, copy.prefix, copy.enabled = (
            self.grid,
            self.own_prefix,
            self.prefix,
            self.enabled,
        )
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "state": {}, "recorder": None}

    def begin(self, prefix: int) -> None:
        """Start a forward pass of a host whose stream has ``prefix`` tokens before the map."""
        self.own_prefix = self.prefix = prefix
        self.state = {}

    def enter(self, index: int, grid: tuple[int, ...] | None = None) -> None:
        """Enter block ``index`` whose map has the extents ``grid`` (left as they are when None)."""
        self.index = index
        self.prefix = self.own_prefix
        if grid is not None:
            self.grid = tuple(int(size) for size in grid)

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the current token map."""
        return self.grid[-2:]

    @property
    def frames(self) -> int:
        """Frames of the current token map; 1 for images."""
        return math.prod(self.grid[:-2])

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split a stream ``(B, prefix + H*W, C)`` into prefix tokens ``(B, prefix, C)`` and map ``(B, C, H, W)``.

        In video a stream holds ``frames * H * W`` tokens, and the frames are maps of their own, clip by clip:
        ``(B * frames, C, H, W)``.
        """
        tokens = x[:, self.prefix :]
        if self.frames > 1:
            tokens = tokens.unflatten(1, (self.frames, -1)).flatten(0, 1)
        return x[:, : self.prefix], tokens.transpose(1, 2).unflatten(2, self.hw)

    def join(self, prefix: Tensor, spatial: Tensor) -> Tensor:
        """The inverse of :meth:`split`."""
        tokens = spatial.flatten(2).transpose(1, 2)
        if self.frames > 1:
            tokens = tokens.unflatten(0, (-1, self.frames)).flatten(1, 2)
        return torch.cat((prefix, tokens), dim=1) if prefix.shape[1] else tokens


class StatedLinear:
    """A linear whose weights a backbone uses without calling a module: its block's re-stated forward runs the site.

    Args:
        weight: Where its weight ``(out, in)`` is: the module that holds it, and the name there.
        *biases: The same of every part of its bias along the output, in order; None for a part that is always zero.
    """

    def __init__(self, weight: tuple[nn.Module, str], *biases: tuple[nn.Module, str] | None) -> None:
        self._weight, self._biases = weight, biases
        self.out_features, self.in_features = self.weight.shape

    @property
    def weight(self) -> nn.Parameter:
        """``(out, in)``, as the module holds it now."""
        return getattr(*self._weight)

    @property
    def biases(self) -> tuple[nn.Parameter | None, ...]:
        """The parts of its bias, in order; None for a part that is always zero."""
        return tuple(None if part is None else getattr(*part) for part in self._biases)

    @property
    def bias(self) -> Tensor | None:
        """The whole bias ``(out,)``, None where it has none."""
        if all(part is None for part in self.biases):
            return None
        zeros = self.weight.new_zeros(self.out_features // len(self.biases))
        return torch.cat([zeros if part is None else part for part in self.biases])

    def parameters(self) -> Iterator[nn.Parameter]:
        """Weight and parts of the bias that exist."""
        yield self.weight
        yield from (part for part in self.biases if part is not None)


def bias_size(module: nn.Module | StatedLinear) -> int:
    """How many numbers the bias of a linear, convolution or norm has as parameters."""
    parts = module.biases if isinstance(module, StatedLinear) else (module.bias,)
    return sum(part.numel() for part in parts if part is not None)


@dataclass
class Entry:
    """A module at a site. ``active`` is False while it is merged into the host's weights."""

    placement: str
    module: nn.Module
    key: str
    active: bool = True


@dataclass
class Site:
    """A named place and the modules placed there.

    Attributes:
        name: Its name in the vocabulary of sites.
        flow: The host's flow.
        allowed: Placements that the place can take.
        channels_first: The operation's output is ``(B, C, H, W)``; placed modules always see channels last.
        module: The module (or stated linear) whose weights the site's operation is; None between modules.
        fold: Where an affine ``after`` of a place between modules merges to: the site of the last linear, and the
            LayerScale between the two, a module or its parameter (or None).
        keys: Where attention's keys are read, for a stated linear whose bias has no part for them: a shift of all keys
            changes nothing so long as no method reads or adds any.
    """

    name: str
    flow: Flow
    allowed: tuple[str, ...] = MODULE_PLACEMENTS
    channels_first: bool = False
    module: nn.Module | StatedLinear | None = field(default=None, repr=False)
    fold: tuple[Site, nn.Module | nn.Parameter | None] | None = field(default=None, repr=False)
    keys: Site | None = field(default=None, repr=False)
    entries: list[Entry] = field(default_factory=list, repr=False)

    def placed(self, *placements: str) -> list[Entry]:
        """The entries of ``placements`` that are to run now, in order."""
        if not self.flow.enabled:
            return []
        return [entry for entry in self.entries if entry.active and entry.placement in placements]

    def before(self, x: Tensor) -> Tensor:
        """Apply the ``before`` modules to the operation's input."""
        for entry in self.placed("before"):
            x = entry.module(x, self.flow)
        return x

    def shortcut(self, x: Tensor) -> Tensor:
        """Apply the ``shortcut`` modules to the identity path."""
        for entry in self.placed("shortcut"):
            x = entry.module(x, self.flow)
        return x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """Apply ``parallel`` and ``after`` modules to the operation's output ``y`` of the input ``x``, in order."""
        for entry in self.placed("parallel", "after"):
            if entry.placement == "after":
                y = entry.module(y, self.flow)
            else:
                add_to = getattr(entry.module, "add_to", None)
                y = add_to(y, x, self.flow) if add_to else y + entry.module(x, self.flow)
        return y

    def run(self, operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``operation`` with everything placed around it."""
        x = self.before(x)
        for entry in self.placed("around"):
            operation = partial(entry.module.around, operation, flow=self.flow)
        return self.after(x, operation(x))

    def dropped(self, x: Tensor, y: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        """A branch's output ``y`` of the input ``x`` through DropPath, with the ``beside`` and ``late`` modules."""
        y = drop(y)
        for entry in self.placed("beside"):
            y = y + drop(entry.module(x, self.flow))
        for entry in self.placed("late"):
            y = entry.module(y, self.flow)
        return y


class BeforeHook:
    """Forward pre-hook that runs a site's ``before`` modules; an object, so that it survives ``deepcopy``."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.site.before(args[0]), *args[1:])


class AfterHook:
    """Forward hook that runs a site's ``parallel`` and ``after`` modules."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self.site.channels_first:
            return self.site.after(args[0], output.movedim(1, -1)).movedim(-1, 1)
        return self.site.after(args[0], output)
