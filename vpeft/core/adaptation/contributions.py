"""What each placed module adds, seen and changed from outside.

Within :func:`contributions` every active module of an adapted host is asked twice over: what passes the place without
it (``plain``) and with it (``tuned``); a function of the two decides what goes on. Weight-space interpolation returns
something between them, measuring takes their distance. Neither hosts nor methods know of it.

A module that keeps the shape of what it gets is looked at by itself (``how = "contribution"``). One that changes the
number of tokens, as prompts and prefixes do, cannot be compared with what it got; there the whole operation around it,
attention or block or norm, is run without it and with it (``how = "operation"``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.block_forward import QKV
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.site import Placed, Site
from vpeft.errors import UserError


@dataclass(frozen=True)
class Place:
    """Where something is added.

    Attributes:
        site: Name of the site.
        block: Index of its block; None at a site of the backbone itself.
        key: The method's key.
        how: ``contribution`` or ``operation``.
        placement: The module's; of an operation the first module's.
    """

    site: str
    block: int | None
    key: str
    how: str
    placement: str


Change = Callable[[Place, Tensor, Tensor], Tensor]


def every_site(adaptation: Adaptation) -> Iterator[tuple[Block | None, Site]]:
    """Every site with its block, in the order of the forward pass as far as blocks go."""
    host = adaptation.host
    for block in host.blocks:
        yield from ((block, site) for site in block.sites.values())
    yield from ((None, site) for site in host.sites.values())


def entries(adaptation: Adaptation) -> Iterator[Placed]:
    """Every placed module, merged or not."""
    for _, site in every_site(adaptation):
        yield from site.entries


def resizing(adaptation: Adaptation, forward: Callable[[], Any]) -> list[Placed]:
    """The active modules that change the shape of what they get.

    Args:
        adaptation: The adapted host.
        forward: Runs a forward pass of the model.
    """
    found: list[Placed] = []

    def see(entry: Placed) -> Callable[[Place, Any, Any], Any]:
        def look(place: Place, plain: Any, tuned: Any) -> Any:
            pairs = zip(plain, tuned, strict=True) if isinstance(plain, QKV) else [(plain, tuned)]
            if any(a.shape != b.shape for a, b in pairs):
                found.append(entry)
            return tuned

        return look

    with ExitStack() as stack, torch.no_grad():
        for block, site in every_site(adaptation):
            for entry in site.entries:
                if entry.active and entry.placement not in ("parallel", "beside", "around"):
                    stack.callback(setattr, entry, "module", entry.module)
                    entry.module = _Through(entry, _place(block, site, entry), see(entry), whole=True)
        forward()
    return found


@contextmanager
def contributions(adaptation: Adaptation, change: Change, enclosed: Sequence[Placed]) -> Iterator[None]:
    """Within the context, ``change(place, plain, tuned)`` decides what comes of every active module's contribution.

    Args:
        adaptation: The adapted host.
        change: Gets where it is, and what goes on without and with the module; gives what is to go on.
        enclosed: What :func:`resizing` has found.

    Raises:
        UserError: A module changes the number of tokens at a place around which no operation is known.
    """
    ids = {id(entry) for entry in enclosed}
    with ExitStack() as stack:
        for block, site in every_site(adaptation):
            group = [entry for entry in site.entries if id(entry) in ids and entry.active]
            for entry in site.entries:
                if entry.active and id(entry) not in ids:
                    through = _Through(entry, _place(block, site, entry), change)
                    stack.callback(setattr, entry, "module", entry.module)
                    entry.module = through
                    if entry.placement == "beside":
                        _patch(stack, site, "dropped", through.watch(site))
            if group:
                _enclose(stack, block, site, group, change)
        yield


def _place(block: Block | None, site: Site, entry: Placed, how: str = "contribution") -> Place:
    return Place(site.name, None if block is None else block.index, entry.key, how, entry.placement)


def _patch(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute of the object itself until the stack is left; its class's own shows again then."""
    if name in owner.__dict__:
        stack.callback(setattr, owner, name, owner.__dict__[name])
    else:
        stack.callback(owner.__dict__.pop, name, None)
    owner.__dict__[name] = value


class _Through:
    """Stands in for a placed module."""

    def __init__(self, entry: Placed, place: Place, change: Change, whole: bool = False) -> None:
        self.module, self.place, self.whole = entry.module, place, whole
        self.change = change
        self.branch: Tensor | None = None
        if entry.placement == "parallel":
            self.add_to = self._add_to

    def __call__(self, x: Any, flow: Flow) -> Any:
        y = self.module(x, flow)
        if self.place.placement == "beside":
            tuned = self.branch + y
            out = self.change(self.place, self.branch, tuned)
            return y if out is tuned else out - self.branch
        if y is x:
            return y  # it only looks
        if isinstance(x, QKV) and not self.whole:
            return QKV(*(a if a is b else self.change(self.place, a, b) for a, b in zip(x, y, strict=True)))
        return self.change(self.place, x, y)

    def _add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        own = getattr(self.module, "add_to", None)
        # Some write into y; what was there is still needed.
        tuned = own(y.clone(), x, flow) if own else y + self.module(x, flow)
        return self.change(self.place, y, tuned)

    def around(self, operation: Callable[[Tensor], Tensor], x: Tensor, flow: Flow) -> Tensor:
        return self.change(self.place, operation(x), self.module.around(operation, x, flow))

    def watch(self, site: Site) -> Callable[..., Tensor]:
        """A site's ``dropped`` that keeps the branch's own output, as a stream, for a module beside it."""
        dropped = site.dropped

        def watched(x: Tensor, y: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
            self.branch = site.layout.open(y)
            return dropped(x, y, drop)

        return watched


def _enclose(stack: ExitStack, block: Block | None, site: Site, group: list[Placed], change: Change) -> None:
    """Let the operation around a group of modules run without and with them."""
    place = _place(block, site, group[0], "operation")

    def both(run: Callable[[], Tensor]) -> Tensor:
        flow = block.module.peft_flow
        entered = flow.grid, flow.unrolled
        with _switched_off(group):
            plain = run()
        flow.grid, flow.unrolled = entered  # attention that pools leaves a smaller map
        return _compare(change, place, plain, run())

    if block is not None and site.name in ("core", "block"):
        name = {"core": "site_attention", "block": "site_forward"}[site.name]
        plain_run = getattr(block.module, name)
        _patch(stack, block.module, name, lambda *args, **kwargs: both(lambda: plain_run(*args, **kwargs)))
    elif isinstance(site.module, nn.Module):
        _enclose_module(stack, site, group, lambda plain, tuned: _compare(change, place, plain, tuned))
    else:
        raise UserError(
            f"{group[0].key} changes the number of tokens at the site {site.name!r}, and there is no operation known "
            "around it that could be run without it."
        )


def _enclose_module(
    stack: ExitStack, site: Site, group: list[Placed], compare: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """The same where the operation is a module: its hooks run the site before and behind it."""
    before, after = site.before, site.after
    kept: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        kept[:] = [x]
        return before(x)

    def compared(x: Tensor, y: Tensor) -> Tensor:
        # Without a module before it there is no hook that could have kept the input: then it is x itself.
        start = kept.pop() if kept else x
        with _switched_off(group):
            start = before(start)
            plain = after(start, site.alone(start))
        tuned = after(x, y)
        # A map, or its tokens in a row: a pointwise module gives either on.
        alike = site.pointwise and plain.numel() == tuned.numel()
        return compare(plain.reshape(tuned.shape) if alike else plain, tuned)

    _patch(stack, site, "before", watched)
    _patch(stack, site, "after", compared)


@contextmanager
def _switched_off(group: list[Placed]) -> Iterator[None]:
    for entry in group:
        entry.active = False
    try:
        yield
    finally:
        for entry in group:
            entry.active = True


def _compare(change: Change, place: Place, plain: Tensor, tuned: Tensor) -> Tensor:
    if plain.shape != tuned.shape:
        raise UserError(
            f"{place.key} gives an output of the shape {tuple(tuned.shape)} at the site {place.site!r} where the "
            f"frozen host gives {tuple(plain.shape)}: there is nothing between the two to interpolate or compare."
        )
    return change(place, plain, tuned)
