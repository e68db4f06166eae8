"""Several adapters at once: a weighted sum of them, or for each sample of a batch its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.contributions import Place, contributions
from vpeft.core.adaptation.folding import Affine
from vpeft.core.adaptation.several.shelf import Shelf, Slot
from vpeft.core.adaptation.values.precision import sample
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.shares import Shares
from vpeft.core.backbones.sites.site import Placed
from vpeft.errors import UserError


class Named(Protocol):
    """What is asked of the adapters of a base here (:class:`~.adapters.Adapters`); the base alone answers."""

    host: Host
    base: Adaptation
    own: dict[str, Tensor]
    shelves: dict[str, Shelf]
    stack: ExitStack


def add_up(adapters: Named, weights: Mapping[str, float], head: str | None) -> None:
    """Let a weighted sum of adapters answer: ``y + sum_i w_i f_i(x)``; of a single one, its strength.

    Of one adapter any method's contribution is scaled that keeps the shape of what it gets. Several are added up where
    that is their sum in weights too: where each adds something affine to an operation's output (LoRA), or trains
    parameters of the base.

    Raises:
        UserError: The sum is not defined, or nobody's head is named where they differ.
    """
    shelves = {name: adapters.shelves[name] for name in weights}
    if len(shelves) > 1:
        for name, shelf in shelves.items():
            _require_linear(name, shelf)
    answering = _head_of(adapters, shelves, head)
    for name, shelf in shelves.items():
        shelf.follow()
        for site, entries in zip(adapters.host.every_site(), shelf.entries, strict=True):
            site.entries = [*site.entries, *(Placed(e.placement, e.module, name, e.active) for e in entries)]
    adapters.stack.callback(_clear, adapters.host)

    def scaled(place: Place, plain: Tensor, tuned: Tensor) -> Tensor:
        if plain.shape != tuned.shape:
            raise UserError(
                f"the adapter {place.key!r} changes the number of tokens at the site {place.site!r}: there is no "
                "strength of it. Call vpeft.use(model, name)."
            )
        return plain + weights[place.key] * (tuned - plain)

    adapters.stack.enter_context(contributions(adapters.base, scaled, []))
    for entry in (entry for site in adapters.host.every_site() for entry in site.entries):
        if hasattr(entry.module.module, "affine"):  # so that the sum merges where each does
            entry.module.affine = partial(_scaled_affine, entry.module.module, entry.placement, weights[entry.key])
    for key, slot in answering.items():
        _put(adapters, key, slot, adapters.shelves[head or next(iter(weights))].values[key])
    summed: dict[str, tuple[Slot, Tensor]] = {}
    for name, shelf in shelves.items():
        for key in shelf.base_keys:
            slot, value = summed.get(key, (shelf.slots[key], adapters.own[key]))
            summed[key] = slot, value + weights[name] * (shelf.values[key] - adapters.own[key])
    for key, (slot, value) in summed.items():
        _put(adapters, key, slot, value)
    adapters.host.passes.sample = _sample(shelves)
    adapters.base.blend = f"a sum of the adapters {', '.join(shelves)} answers"


def mix(adapters: Named, names: Sequence[str | None]) -> None:
    """Let each sample of the batches to come be answered by its own adapter, and by its head.

    The frozen part runs once for the whole batch. Where heads tell different numbers of classes apart, scores beyond a
    sample's own classes are ``-inf``.

    Raises:
        UserError: A method trains parameters of the base itself, or resizes its head.
    """
    host = adapters.host
    if not host.blocks:
        raise UserError(
            f"adapters of a {host.registered_name()} host cannot be mixed in a batch: nothing says which rows are of "
            "which sample. Call vpeft.use(model, name) for batches of one adapter."
        )
    shelves = {name: adapters.shelves[name] for name in dict.fromkeys(names) if name is not None}
    for name, shelf in shelves.items():
        trained = shelf.adaptation.trained
        if trained or shelf.heads:
            what = f"trains {trained[0]} of the base itself" if trained else "has another width at the head"
            raise UserError(
                f"the adapter {name!r} {what}, which the samples of a batch share: it cannot be mixed with others. "
                "Call vpeft.use(model, name) for batches of one adapter."
            )
        shelf.follow()
    shares = Shares(names)
    for number, site in enumerate(host.every_site()):
        entries = {name: shelves[name].entries[number] if name is not None else [] for name in shares.owners}
        if any(entries.values()):
            site.each = {name: replace(site, entries=own, each=None) for name, own in entries.items()}
    host.passes.shares = shares
    adapters.stack.callback(_unmix, host)
    heads: dict[int, nn.Module] = {}
    for shelf in shelves.values():
        heads |= {id(slot.module): slot.module for slot in shelf.slots.values()}
    kind: set[str] = set()
    for module in heads.values():
        _MixedHead(module, adapters, shelves, shares, kind).put_on(adapters.stack)
    host.passes.sample = _sample(shelves)
    adapters.base.blend = f"the adapters {', '.join(shelves)} answer, sample by sample"


def _require_linear(name: str, shelf: Shelf) -> None:
    placed = [entry for entries in shelf.entries for entry in entries]
    if all(entry.placement == "parallel" and hasattr(entry.module, "affine") for entry in placed) and not shelf.heads:
        return
    methods = ", ".join(type(method).__name__ for method in shelf.adaptation.methods.values())
    raise UserError(
        f"the adapter {name!r} ({methods}) is no sum of what it adds to the weights: it cannot be added up with "
        f"others. {{{name!r}: weight}} alone scales it."
    )


def _scaled_affine(module: Any, placement: str, weight: float) -> Affine:
    """``M, m`` of a module at a strength (:mod:`~vpeft.core.adaptation.folding`): what it changes, times the weight."""
    matrix, shift = module.affine()
    if matrix is not None and placement == "parallel":
        matrix = weight * matrix
    elif matrix is not None:
        same = torch.ones_like(matrix) if matrix.dim() == 1 else torch.eye(len(matrix)).to(matrix)
        matrix = same + weight * (matrix - same)
    return matrix, None if shift is None else weight * shift


def _head_of(adapters: Named, shelves: Mapping[str, Shelf], head: str | None) -> dict[str, Slot]:
    """The slots of the head that is to answer."""
    if head is None and len(shelves) > 1:
        for shelf in shelves.values():
            first = next(iter(shelves.values()))
            keys = [key for key in shelf.slots if key not in shelf.base_keys]
            if any(key not in first.values or not _equal(first.values[key], shelf.values[key]) for key in keys):
                names = ", ".join(repr(name) for name in shelves)
                raise UserError(f"the adapters {names} have heads of their own: say whose answers, head={names[:40]}.")
    shelf = adapters.shelves[head or next(iter(shelves))]
    if shelf.heads and len(shelves) > 1:
        raise UserError("a head of another width answers for its own adapter alone.")
    return {key: slot for key, slot in shelf.slots.items() if key not in shelf.base_keys}


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b.to(a))


def _put(adapters: Named, key: str, slot: Slot, value: Tensor) -> None:
    adapters.stack.callback(slot.set, adapters.own[key])
    slot.set(value)


def _clear(host: Host) -> None:
    for site in host.every_site():
        site.entries = []


def _unmix(host: Host) -> None:
    host.passes.shares = None
    for site in host.every_site():
        site.each = None


def _sample(shelves: Mapping[str, Shelf]) -> tuple[nn.Module, str] | None:
    """What shows the precision of the adapters, which is one."""
    made = [module for shelf in shelves.values() for module in shelf.modules if module is not None]
    kinds = {p.dtype for module in made for p in module.parameters()}
    if len(kinds) > 1:
        raise UserError(
            "the adapters are of different precisions, "
            f"{' and '.join(sorted(str(kind).removeprefix('torch.') for kind in kinds))}: they cannot answer together."
        )
    return sample(iter(made))


class _MixedHead:
    """Stands in for a module of the head: every sample passes it with the values of its own adapter."""

    def __init__(
        self, module: nn.Module, adapters: Named, shelves: Mapping[str, Shelf], shares: Shares, kind: set[str]
    ) -> None:
        self.module, self.shares, self.kind = module, shares, kind
        self.tensors: dict[Any, dict[str, Tensor]] = {None: {}}
        for name, shelf in shelves.items():
            own = {key: slot for key, slot in shelf.slots.items() if slot.module is module}
            self.tensors[name] = {slot.name: shelf.values[key] for key, slot in own.items()}
            self.tensors[None] |= {slot.name: adapters.own[key] for key, slot in own.items()}

    def put_on(self, stack: ExitStack) -> None:
        before = vars(self.module).get("forward")
        self.module.forward = self
        stack.callback(_forward_back, self.module, before)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._require(x)
        plain = self.module.forward
        del self.module.forward
        try:
            parts = [
                functional_call(self.module, self.tensors[name], (x[self.shares.rows(name, x)], *args), kwargs)
                for name in self.shares.owners
            ]
        finally:
            self.module.forward = plain
        axis = 1 if isinstance(self.module, nn.modules.conv._ConvNd) else -1
        widest = max(part.shape[axis] for part in parts)
        shape = [len(x), *parts[0].shape[1:]]
        shape[axis] = widest
        whole = parts[0].new_full(shape, -torch.inf)
        for name, part in zip(self.shares.owners, parts, strict=True):
            rows = self.shares.rows(name, x)
            whole.narrow(axis, 0, part.shape[axis])[rows] = part
        return whole

    def _require(self, x: Any) -> None:
        """Refuse what does not stand sample by sample, as the regions of a detector do not."""
        convolves = isinstance(self.module, nn.modules.conv._ConvNd)
        dims = x.dim() if isinstance(x, Tensor) else 0
        self.kind.add("map" if dims == 4 else "vector" if dims in (2, 3) else "other")
        if not dims or len(x) != self.shares.size or len(self.kind) > 1 or "other" in self.kind:
            raise UserError(
                f"the head ({type(self.module).__name__}{' on maps' if convolves else ''}) does not see one input for "
                "each sample: adapters of such a model cannot be mixed. Call vpeft.use(model, name) for batches of one "
                "adapter."
            )


def _forward_back(module: nn.Module, before: Any) -> None:
    if before is None:
        vars(module).pop("forward", None)
    else:
        module.forward = before
