"""Differences in words: which numbers, of which tensor, made at which site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.contributions import Place, contributions, every_site, resizing
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.site import Placed, Site
from vpeft.errors import UserError

#: So many names are listed.
_NAMED = 4


def difference_words(got: Tensor, want: Tensor) -> str:
    """Where two tensors differ most, and in how many numbers."""
    if got.shape != want.shape:
        return f"the shape is {tuple(got.shape)} in the place of {tuple(want.shape)}"
    apart = (got.detach().double() - want.detach().double()).abs()
    finite = torch.isfinite(apart)
    if not finite.all():
        return f"{int((~finite).sum()):,} of {apart.numel():,} numbers are not finite"
    place = tuple(int(i) for i in torch.unravel_index(apart.argmax(), apart.shape))
    return (
        f"the largest difference is {apart.max():.3g}, at {list(place)} ({got[place]:.6g} in the place of "
        f"{want[place]:.6g}); {int((got != want).sum()):,} of {apart.numel():,} numbers differ"
    )


def listed(names: Iterable[str]) -> str:
    """The first names of many."""
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def place_words(block: Block | None, site: Site, entry: Placed) -> str:
    """A placed module and where it stands."""
    where = f"block {block.index}, " if block else ""
    return f"{type(entry.module).__name__} ({where}site {site.name}, {entry.placement})"


def first_change(adaptation: Adaptation, forward: Callable[[], Any]) -> str | None:
    """The first module that changes what passes it, and by how much; None where none does or it cannot be told."""
    found: list[str] = []

    def look(place: Place, plain: Tensor, tuned: Tensor) -> Tensor:
        if not found and plain.shape == tuned.shape and not torch.equal(plain, tuned):
            where = "" if place.block is None else f"block {place.block}, "
            found.append(f"{where}site {place.site}, {place.placement}, by {(tuned - plain).abs().max():.3g}")
        return tuned

    try:
        with torch.no_grad(), contributions(adaptation, look, resizing(adaptation, forward)):
            forward()
    except UserError:
        return None
    return found[0] if found else None


def false_affine(adaptation: Adaptation, forward: Callable[[], Any], tolerance: float) -> str | None:
    """The first module whose ``affine()`` says another function than its ``forward`` computes; None where none does."""
    with ExitStack() as stack, torch.no_grad():
        seen = list(_watched(stack, adaptation))
        forward()
    for words, placed, watch in seen:
        if watch.seen is None:
            continue
        x, got = watch.seen
        matrix, shift = (None if t is None else t.detach().to(got) for t in placed.module.affine())
        try:
            want = _said(placed.placement, x, matrix, shift).expand_as(got)
        except RuntimeError as error:
            return f"affine() of {words} does not fit inputs of the width {x.shape[-1]}: {error}"
        if (got - want).abs().max() > tolerance * got.abs().max().clamp_min(1e-30):
            return f"affine() of {words} does not say what its forward computes: {difference_words(want, got)}"
    return None


def _said(placement: str, x: Tensor, matrix: Tensor | None, shift: Tensor | None) -> Tensor:
    if matrix is None:
        y = torch.zeros(()).to(x) if placement == "parallel" else x
    else:
        y = x * matrix if matrix.dim() == 1 else x @ matrix.t()
    return y if shift is None else y + shift


class _Watch:
    """Stands in for a placed module and keeps what it got and gave."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.seen: tuple[Tensor, Tensor] | None = None
        if hasattr(module, "add_to"):
            self.add_to = self._add_to

    def __call__(self, x: Any, flow: Flow) -> Any:
        y = self.module(x, flow)
        self._keep(x, y)
        return y

    def _add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        before = y.clone()  # some write into y
        out = self.module.add_to(y, x, flow)
        self._keep(x, out - before)
        return out

    def _keep(self, x: Any, y: Any) -> None:
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            self.seen = x.clone(), y.clone()


def _watched(stack: ExitStack, adaptation: Adaptation) -> Iterator[tuple[str, Placed, _Watch]]:
    for block, site in every_site(adaptation):
        for entry in site.entries:
            if entry.active and hasattr(entry.module, "affine"):
                words, watch = place_words(block, site, entry), _Watch(entry.module)
                stack.callback(setattr, entry, "module", entry.module)
                entry.module = watch
                yield words, entry, watch


def loose_tensors(adaptation: Adaptation) -> list[str]:
    """Tensors that the method's modules hold where no file stores them, by module and attribute."""
    found = []
    for module in adaptation.peft_modules():
        for name, part in module.named_modules():
            where = f"{type(module).__name__}.{name}" if name else type(module).__name__
            plain = [key for key, value in vars(part).items() if isinstance(value, Tensor)]
            found += [f"{where}.{key}" for key in (*plain, *sorted(part._non_persistent_buffers_set))]
    return sorted(set(found))


def attributes(adaptation: Adaptation) -> dict[str, Any]:
    """Plain attributes of the method's modules, numbers and tensors as they are, to see which a pass changes."""
    found = {}
    for number, module in enumerate(adaptation.peft_modules()):
        for name, part in module.named_modules():
            for key, value in (*vars(part).items(), *part._buffers.items()):
                if key != "training" and isinstance(value, (int, float, str, Tensor, list, tuple, type(None))):
                    found[number, name, f"{type(part).__name__}.{key}"] = _frozen(value)
    return found


def _frozen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (
            value.detach().clone().flatten().tolist() if value.numel() < 10_000 else (value.shape, float(value.sum()))
        )
    return str(value) if isinstance(value, (list, tuple)) else value
