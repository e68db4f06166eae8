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

``parallel`` and ``after`` modules are applied in the order in which they were placed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.stated_linear import StatedLinear

PLACEMENTS = ("before", "around", "parallel", "after", "beside", "late", "shortcut")
#: What a site that is a module takes, and what a whole branch takes.
MODULE_PLACEMENTS = ("before", "parallel", "after")
BRANCH_PLACEMENTS = ("around", "parallel", "after", "beside", "late")


@dataclass
class Placed:
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
    entries: list[Placed] = field(default_factory=list, repr=False)

    def placed(self, *placements: str) -> list[Placed]:
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
