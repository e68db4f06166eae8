"""The named adapters of one base, of which one answers, a sum of some, or for each sample of a batch its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.base_weights import NEVER, RANDOM
from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.several.blends import add_up, mix
from vpeft.core.adaptation.several.shelf import Shelf, slots
from vpeft.core.adaptation.storing.adapter_file import head_keys
from vpeft.core.adaptation.values.precision import sample
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import nearest

#: The name of the adapter that was there before any was named.
FIRST = "default"
_ALONE = "the base answers without an adapter"


class Adapters:
    """Named adapters on one base.

    Args:
        model: The model. It has one adapted backbone.
        name: What the present adapter is to be called.

    Attributes:
        active: Name of the adapter that answers; None where the base alone does, or several do.
        summed: Names of those of which a weighted sum answers.

    Raises:
        UserError: Several backbones are adapted, the adapter is merged, or the base was never loaded.
    """

    def __init__(self, model: nn.Module, name: str = FIRST) -> None:
        found = find_adaptations(model)
        if len(found) > 1:
            raise UserError(
                f"methods are attached to {len(found)} backbones of this {type(model).__name__}, and named adapters "
                "are for one: detach, and name one backbone."
            )
        ((self.prefix, first),) = found.items()
        if first.merged:
            raise UserError("the adapter is merged into the weights: vpeft.unmerge(model) before another is added.")
        first.check()
        self.host, self.active, self.stack = first.host, name, ExitStack()
        self.summed: tuple[str, ...] = ()
        self._need_base(first)
        self.own: dict[str, Tensor] = {}
        self.shelves = {name: self._shelf(model, first)}
        self._keep_own(self.shelves[name], first)
        self.base = Adaptation(self.host, [])
        self.base.flags, self.base.lowered = first.flags, first.lowered
        self.base.base.start(first.base.source)
        self.base.blend = _ALONE
        for adaptation in (first, self.base):
            adaptation.several = self

    @property
    def names(self) -> list[str]:
        """The names of the adapters, in the order in which they came."""
        return list(self.shelves)

    def add(self, model: nn.Module, name: str, methods: Sequence[Method], dtype: torch.dtype | None = None) -> None:
        """Attach methods as a further adapter, which answers from now on, with a head that starts as the base's own.

        Raises:
            UserError: The name is taken, or a method cannot be attached; the adapter that answered does again.
        """
        if name in self.shelves:
            raise UserError(f"an adapter {name!r} is there already: vpeft.drop_adapter(model, {name!r}), or another.")
        before = self.active
        self.use(None)
        first = next(iter(self.shelves.values())).adaptation
        adaptation = Adaptation(self.host, methods, dtype)
        adaptation.flags, adaptation.several = first.flags, self
        try:
            adaptation.place()
            if first.lowered is not None:
                first.lowered.share(adaptation.trained)
                adaptation.lowered = first.lowered
            for known in ("source", "file", "by", "prefix"):
                setattr(adaptation.base, known, getattr(first.base, known))
            shelf = self._shelf(model, adaptation)
            for key, slot in shelf.slots.items():
                self.own.setdefault(key, slot.get())
            shelf.own_values()
        except Exception:
            adaptation.base.close()
            self.host.backbone.peft_adaptation = self.base
            self.use(before)
            raise
        self.shelves[name], self.active = shelf, name

    def fit_head(self, name: str, shapes: Mapping[str, torch.Size]) -> None:
        """Give the head of the answering adapter the number of classes that a file's tensors have.

        Args:
            name: The adapter.
            shapes: Shapes by key; other keys than those of a head are passed over.
        """
        for key, slot in self.shelves[name].slots.items():
            now, wanted = slot.get(), shapes.get(key)
            if wanted is not None and now.dim() == len(wanted) > 0 and now.shape[1:] == wanted[1:] != now.shape:
                slot.set(now.new_zeros(wanted))

    def use(self, which: str | Mapping[str, float] | Sequence[str | None] | None, head: str | None = None) -> None:
        """Let an adapter answer, the base alone, a weighted sum of adapters, or for each sample its own.

        Args:
            which: A name; None; weights by name; or a name (or None) for every sample of the batches to come.
            head: Whose head answers for a sum of several.

        Raises:
            UserError: No such adapter, or what is asked for is not defined for the methods.
        """
        plain = which is None or isinstance(which, str)
        asked = [which] if plain else list(which)
        if not asked:
            raise UserError("vpeft.use(model, which): no adapter is named.")
        for name in [one for one in (*asked, head) if one is not None]:
            if name not in self.shelves:
                raise UserError(f"no adapter {name!r} on this model: {nearest(str(name), self.shelves)}")
        if plain and which == self.active and not self._is_blended():
            return
        self._check_unmerged()
        self._leave()
        if plain:
            self._answer(which)
            return
        try:
            if isinstance(which, Mapping):
                add_up(self, {name: float(weight) for name, weight in which.items()}, head)
                self.summed = tuple(which)
            else:
                mix(self, asked)
        except BaseException:
            self._leave()
            raise

    def drop(self, name: str) -> None:
        """Take an adapter away for good; the base alone answers where it did.

        Raises:
            UserError: No such adapter, or it is the last one.
        """
        if name not in self.shelves:
            raise UserError(f"no adapter {name!r} on this model: {nearest(name, self.shelves)}")
        if len(self.shelves) == 1:
            raise UserError(f"{name!r} is the only adapter: vpeft.detach(model) takes it off.")
        if self.active == name or self._is_blended():
            self.use(None)
        gone = self.shelves.pop(name)
        gone.adaptation.base.close()

    def summed_methods(self) -> list[Method]:
        """The methods of the adapters of which a weighted sum answers, which is what is merged then.

        Raises:
            UserError: No sum answers, or something of the base is no longer what it was.
        """
        if not self.summed:
            raise UserError(f"{self.base.blend}: vpeft.use(model, name) first.")
        for name in self.summed:
            self.shelves[name].adaptation.identity.check_base()
        return [method for name in self.summed for method in self.shelves[name].adaptation.methods.values()]

    def detach(self, restore: bool) -> None:
        """Take every adapter off; ``restore=False`` keeps what the answering one has trained, or a merged sum."""
        for shelf in self.shelves.values():
            if shelf.adaptation.merged and restore:
                shelf.adaptation.check_restorable()
                shelf.adaptation.unmerge()
        if self.base.merged:
            self.stack.pop_all()  # the weights and the head of the sum are to stay
        elif restore or self.active is None:
            self.use(None)
        last = self.host.backbone.peft_adaptation
        for adaptation in (self.base, *(shelf.adaptation for shelf in self.shelves.values())):
            adaptation.several = None
            adaptation.blend = ""
            adaptation.base.close()
        last.detach(restore and last is not self.base)

    def is_at(self, model: nn.Module) -> bool:
        """Whether it still is what stands at its place in the model."""
        module: nn.Module | None = model
        for part in self.prefix.split(".")[:-1]:
            module = None if module is None else module._modules.get(part)
        return module is self.host.backbone and getattr(module, "peft_adaptation", self.base).several is self

    # --------------------------------------------------------------------------------------------------------------

    def _shelf(self, model: nn.Module, adaptation: Adaptation) -> Shelf:
        """The adapter on the base as one that can be taken off: what it has values of its own for."""
        replaced = tuple(f"{name}." for name in self.host.plain_heads)
        inside = [key for key in adaptation.heads.present() if not key.startswith(replaced or ("/",))]
        keys = [self.prefix + key for key in (*adaptation.trained, *inside)]
        return Shelf(adaptation, slots(model, [*keys, *sorted(head_keys(model))]))

    def _keep_own(self, shelf: Shelf, first: Adaptation) -> None:
        """Remember the base's own values of what the first adapter has its own for."""
        before = {self.prefix + key: value for key, value in {**first.heads.values, **first.originals}.items()}
        covered = {tensor.data_ptr(): value for tensor, value in first.heads.outside if tensor.numel()}
        for key, slot in shelf.slots.items():
            now = slot.get()
            value = before.get(key, covered.get(now.data_ptr(), now))
            self.own[key] = now.clone() if value is now else value.to(now, copy=True)

    def _answer(self, name: str | None) -> None:
        if name is not None:
            self.shelves[name].put_on()
        adaptation = self.base if name is None else self.shelves[name].adaptation
        self.host.backbone.peft_adaptation = adaptation
        self.host.passes.sample = sample(adaptation.peft_modules())
        if self.host.backbone.training:
            adaptation.set_mode(True)
        self.active = name

    def _leave(self) -> None:
        """Leave the base alone."""
        self.stack.close()
        self.summed = ()
        if self.active is not None:
            self.shelves[self.active].take_off(self.own)
        self.base.blend = _ALONE
        self._answer(None)

    def _is_blended(self) -> bool:
        return self.active is None and self.base.blend != _ALONE

    def _check_unmerged(self) -> None:
        if self.active is not None and self.shelves[self.active].adaptation.merged:
            raise UserError(f"the adapter {self.active!r} is merged into the weights: vpeft.unmerge(model) first.")
        if self.base.merged:
            names = ", ".join(self.summed)
            raise UserError(f"a sum of the adapters {names} is merged into the weights: vpeft.unmerge(model) first.")

    def _need_base(self, first: Adaptation) -> None:
        if first.base.source in (NEVER, RANDOM):
            what = "was never loaded" if first.base.source == NEVER else "is random and stored with its adapter"
            raise UserError(f"the base {what}: several adapters share one that was loaded (docs/weights.md).")


def adapters_of(model: nn.Module, name: str = FIRST) -> Adapters:
    """The named adapters of a model; where none is named yet, the present one gets ``name``."""
    known = _KNOWN[model]() if model in _KNOWN else None
    if known is not None and known.is_at(model):  # looking through all modules would cost more than the switch
        return known
    prefix, found = next(iter(find_adaptations(model).items()))
    several = found.several or Adapters(model, name)
    several.prefix = prefix  # the backbone may stand in another model since
    _KNOWN[model] = ref(several)
    return several


#: Weak on both sides: adapters hold their base, which may be the model.
_KNOWN: WeakKeyDictionary[nn.Module, ref[Adapters]] = WeakKeyDictionary()
