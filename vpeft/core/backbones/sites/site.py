"""Sites: the named places of a backbone at which methods put their modules.

A site is either a module that the backbone really calls (reached by forward hooks) or a place between modules (run by
the block's re-stated forward, :mod:`vpeft.core.backbones.block_forward`). Modules are placed

* ``before``: ``x <- f(x, flow)``, then the site's operation;
* ``around`` (branches only): the operation becomes ``f.around(operation, x, flow)``;
* ``parallel``: ``y <- y + f(x, flow)`` with the operation's input ``x`` and output ``y``;
* ``after``: ``y <- f(y, flow)``;
* ``beside`` (branches only): ``y <- DP(y) + DP(f(x, flow))``, with a DropPath draw of its own;
* ``late`` (branches only): ``y <- f(DP(y), flow)``;
* ``shortcut`` (residual sites only): the identity path becomes ``f(x, flow)``.

``parallel`` and ``after`` modules are applied in the order in which they were placed. An ``after`` module that states
``after_operation(operation, y, x, flow)`` gets the operation's module and its input too, where nothing else has changed
its output: what its gradient needs may follow from what the operation keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.saving.again import run_again
from vpeft.core.backbones.saving.read_alone import run_read
from vpeft.core.backbones.saving.source import made_again
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.layout import MAP_FIRST, MAP_LAST, TOKENS, Layout
from vpeft.core.backbones.sites.passes import Passes
from vpeft.core.backbones.sites.stated_linear import StatedLinear

PLACEMENTS = ("before", "around", "parallel", "after", "beside", "late", "shortcut")
#: What a site that is a module takes, and what a whole branch takes.
MODULE_PLACEMENTS = ("before", "parallel", "after")
BRANCH_PLACEMENTS = ("around", "parallel", "after", "beside", "late")


@dataclass
class Placed:
    """A module at a site.

    Attributes:
        placement: One of :data:`PLACEMENTS`.
        module: The module.
        key: Key of its method.
        active: False while it is merged into the host's weights.
        noise: What is over the module in training (:mod:`vpeft.core.adaptation.options.noise`).
    """

    placement: str
    module: nn.Module
    key: str
    active: bool = True
    noise: Any = None

    @property
    def acting(self) -> Any:
        """What runs: the module, in training with its noise."""
        return self.noise.over(self.module) if self.noise is not None and self.module.training else self.module


@dataclass
class Site:
    """A named place and the modules placed there.

    Attributes:
        name: Its name in the vocabulary of sites.
        passes: The host's passes.
        index: Index of its block; None at the backbone itself.
        allowed: Placements that the place can take.
        channels_first: The operation's output is ``(B, C, H, W)``; placed modules always see channels last.
        pointwise: Its input is too (a 1x1 convolution), and placed modules see streams ``(B, N, C)`` of both.
        layout: How what passes is laid out; a placed module sees a stream.
        called: The module whose call the place is, where its weights are not the site's.
        module: The module (or stated linear) whose weights the site's operation is; None between modules.
        tokens_first: The module is called on tokens before the batch, ``(N, B, C)``.
        frames_first: It is called on clips ``(B, T, C, H, W)``; placed modules see the channels before the frames.
        fold: Where an affine ``after`` of a place between modules merges to: the site of the last linear, and the
            LayerScale between the two, a module or its parameter (or None).
        table: Where the shift of an operation without a bias may go: a position table ``(..., N, C)`` that is added to
            the output next, and its first row that belongs to the map.
        keys: Where attention's keys are read, for a stated linear whose bias has no part for them: a shift of all keys
            changes nothing so long as no method reads or adds any.
        entries: What is placed, in order.
        hooked: Which of :class:`BeforeHook` and :class:`AfterHook` its module has.
        widths: Of a branch that is run again in the backward pass, the numbers for each token of its input and of its
            hidden layers (:mod:`vpeft.core.backbones.saving.again`); None where it keeps what it saves.
        root: Of a branch that runs in training for the tokens that are read alone, the backbone, whose mode counts
            (:mod:`vpeft.core.backbones.saving.read_alone`); None where it runs for all.
        each: In a batch of several adapters the site of each, by its name (:mod:`.shares`); ``entries`` rests then.
    """

    name: str
    passes: Passes
    index: int | None = None
    allowed: tuple[str, ...] = MODULE_PLACEMENTS
    channels_first: bool = False
    pointwise: bool = False
    tokens_first: bool = False
    frames_first: bool = False
    layout: Layout = TOKENS
    called: nn.Module | None = field(default=None, repr=False)
    module: nn.Module | StatedLinear | None = field(default=None, repr=False)
    fold: tuple[Site, nn.Module | nn.Parameter | None] | None = field(default=None, repr=False)
    table: tuple[nn.Parameter, int] | None = field(default=None, repr=False)
    keys: Site | None = field(default=None, repr=False)
    entries: list[Placed] = field(default_factory=list, repr=False)
    hooked: set[str] = field(default_factory=set, repr=False)
    widths: tuple[int, int] | None = None
    root: nn.Module | None = field(default=None, repr=False)
    each: dict[Hashable, Site] | None = field(default=None, repr=False)

    def placed(self, *placements: str) -> list[Placed]:
        """The entries of ``placements`` that are to run now, in order."""
        if not self.passes.enabled:
            return []
        if self.each:
            return [entry for site in self.each.values() for entry in site.placed(*placements)]
        return [entry for entry in self.entries if entry.active and entry.placement in placements]

    def before(self, x: Tensor) -> Tensor:
        """Apply the ``before`` modules to the operation's input."""
        if self.each:
            return self._shared("before", x)
        for entry in self.placed("before"):
            with made_again(x):
                x = self._changed(entry, x)
        return x

    def shortcut(self, x: Tensor) -> Tensor:
        """Apply the ``shortcut`` modules to the identity path."""
        if self.each:
            return self._shared("shortcut", x)
        for entry in self.placed("shortcut"):
            x = self._changed(entry, x)
        return x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """Apply ``parallel`` and ``after`` modules to the operation's output ``y`` of the input ``x``, in order."""
        if self.each:
            return self._shared("after", x, y)
        own = y
        for entry in self.placed("parallel", "after"):
            flow = self.passes.at(self.index, x)
            with made_again(x):
                if entry.placement == "after" and y is own and self._shows_operation(entry, x):
                    y = entry.acting.after_operation(self.module, y, x, flow)
                else:
                    y = self._changed(entry, y, flow) if entry.placement == "after" else self._added(entry, x, y, flow)
        return y

    def run(self, operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``operation`` with everything placed around it."""
        if self.widths is not None and self.passes.enabled:
            operation = partial(run_again, operation, widths=self.widths, passes=self.passes, index=self.index)
        if self.root is not None and self.passes.enabled:
            operation = partial(run_read, operation, passes=self.passes, index=self.index, root=self.root)
        if self.each and self.placed("around"):
            return self._shared("run", x, first=(operation,))
        x = self.before(x)
        for entry in self.placed("around"):
            operation = partial(self._around, entry, operation)
        return self.after(x, operation(x))

    def alone(self, x: Tensor) -> Tensor:
        """The module's own output with the channels last, as its hooks give it on, with nothing placed around it."""
        if self.pointwise:
            tokens = x if x.dim() > 3 else x.unsqueeze(2)
            return channels_last(self.module.forward(channels_first(tokens))).reshape(x.shape)
        y = self.module.forward(x)
        return channels_last(y) if self.channels_first else y

    def dropped(self, x: Tensor, y: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        """A branch's output ``y`` of the input ``x`` through DropPath, with the ``beside`` and ``late`` modules."""
        if self.each and self.placed("beside", "late"):
            return self._shared("dropped", x, y, last=(drop,))
        y = drop(y)
        for entry in self.placed("beside"):
            with made_again(x):
                y = y + drop(self._changed(entry, x))
        for entry in self.placed("late"):
            y = self._changed(entry, y)
        return y

    def _shared(self, deed: str, *inputs: Any, first: tuple[Any, ...] = (), last: tuple[Any, ...] = ()) -> Any:
        """What each adapter's site does with the rows that are its own, put together."""
        deeds = {
            name: lambda *own, site=site: getattr(site, deed)(*first, *own, *last)
            for name, site in self.each.items()
            if site.entries or first or last  # an operation runs for who adds nothing, too
        }
        if not deeds:
            return inputs[-1]
        x = inputs[0] if isinstance(inputs[0], Tensor) else None
        return self.passes.shares.run(deeds, self.passes.at(self.index, x), *inputs)

    # The adapter computes in its own precision; the stream keeps its own.

    def _shows_operation(self, entry: Placed, x: Tensor) -> bool:
        """Whether an ``after`` module wants the operation and its input, and both are as it would have them."""
        if not hasattr(entry.acting, "after_operation") or not isinstance(self.module, nn.Module):
            return False
        plain = self.layout is TOKENS and not self.channels_first and not self.pointwise
        return plain and self.passes.precision(x) is None

    def _changed(self, entry: Placed, x: Any, flow: Flow | None = None) -> Any:
        flow, dtype, module = flow or self.passes.at(self.index, x), self.passes.precision(x), entry.acting
        if self.layout is not TOKENS:
            like, x = x, self.layout.open(x)
            y = module(x, flow) if dtype is None else module(x.to(dtype), flow).to(x.dtype)
            return self.layout.close(y, like)
        return module(x, flow) if dtype is None else _cast(module(_cast(x, dtype), flow), like=x)

    def _added(self, entry: Placed, x: Tensor, y: Tensor, flow: Flow) -> Tensor:
        dtype, module = self.passes.precision(y), entry.acting
        add_to = getattr(module, "add_to", None)
        if self.layout is not TOKENS:
            like, x, y = y, self.layout.open(x), self.layout.open(y)
            wide = y if dtype is None else y.to(dtype)
            out = add_to(wide, x.to(wide.dtype), flow) if add_to else wide + module(x.to(wide.dtype), flow)
            return self.layout.close(out.to(y.dtype), like)
        if dtype is None:
            return add_to(y, x, flow) if add_to else y + module(x, flow)
        x, wide = x.to(dtype), y.to(dtype)
        return (add_to(wide, x, flow) if add_to else wide + module(x, flow)).to(y.dtype)

    def _around(self, entry: Placed, operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.layout is not TOKENS:
            # Only some tokens of a map may be left: what is pointwise runs on any shape with the channels last.
            own = operation if self.layout is MAP_LAST else partial(self._inside, operation, x)
            y = self.layout.close(entry.module.around(own, self.layout.open(x), self.passes.at(self.index)), x)
            return y.to(x.dtype)
        y = entry.module.around(operation, x, self.passes.at(self.index))
        return y if self.passes.precision(x) is None else y.to(x.dtype)

    def _inside(self, operation: Callable[[Tensor], Tensor], like: Tensor, x: Tensor) -> Tensor:
        return self.layout.open(operation(self.layout.close(x, like)))


def channels_last(x: Tensor) -> Tensor:
    """A map ``(B, C, *extents)`` as ``(B, *extents, C)``; as ``movedim``, which not every exporter has."""
    return x.permute(0, *range(2, x.dim()), 1)


def channels_first(x: Tensor) -> Tensor:
    """The inverse of :func:`channels_last`."""
    return x.permute(0, x.dim() - 1, *range(1, x.dim() - 1))


def _as_map(x: Tensor, like: Tensor) -> Tensor:
    """A stream for a module of maps ``(B, C, *extents)``; with other tokens than those of the map ``(B, C, N, 1)``."""
    if x.dim() > 3:  # a map already, its channels last
        return channels_first(x)
    if x.shape[1] == math.prod(like.shape[2:]):
        return MAP_FIRST.close(x, like)
    return x.transpose(1, 2).unsqueeze(3)


def _as_it_lay(y: Tensor, like: Tensor) -> Tensor:
    """A map laid out in memory as another: a norm over its extents, which may follow, rounds by that."""
    return y.contiguous() if like.is_contiguous() else y


def _cast(x: Any, dtype: torch.dtype | None = None, like: Any = None) -> Any:
    """A tensor, or a named tuple of tensors, in another precision: ``dtype``, or that of ``like``."""
    if isinstance(x, Tensor):
        return x.to(dtype or like.dtype)
    return type(x)(*(part.to(dtype or old.dtype) for part, old in zip(x, like or x, strict=True)))


class BeforeHook:
    """Forward pre-hook that runs a site's ``before`` modules; an object, so that it survives ``deepcopy``."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.site.pointwise:
            return (_as_map(self.site.before(MAP_FIRST.open(args[0])), like=args[0]), *args[1:])
        if self.site.tokens_first:
            return (self.site.before(args[0].transpose(0, 1)).transpose(0, 1), *args[1:])
        if self.site.frames_first and args[0].dim() == 5:
            return (self.site.before(args[0].transpose(1, 2)).transpose(1, 2), *args[1:])
        return (self.site.before(args[0]), *args[1:])


class AfterHook:
    """Forward hook that runs a site's ``parallel`` and ``after`` modules."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self.site.pointwise:
            y = _as_map(self.site.after(MAP_FIRST.open(args[0]), MAP_FIRST.open(output)), like=output)
            return _as_it_lay(y, output)
        if self.site.channels_first:
            return _as_it_lay(channels_first(self.site.after(args[0], channels_last(output))), output)
        if self.site.tokens_first:
            return self.site.after(args[0].transpose(0, 1), output.transpose(0, 1)).transpose(0, 1)
        return self.site.after(args[0], output)


def hook_site(site: Site) -> Iterator[Any]:
    """Let a site that is a module run what is placed there; gives the handles of the hooks that it lacked."""
    module = site.called or site.module
    if not isinstance(module, nn.Module):
        return
    placements = {entry.placement for entry in site.entries}
    if "before" in placements and "before" not in site.hooked:
        site.hooked.add("before")
        yield module.register_forward_pre_hook(BeforeHook(site))
    if placements & {"parallel", "after"} and "after" not in site.hooked:
        site.hooked.add("after")
        yield module.register_forward_hook(AfterHook(site))
