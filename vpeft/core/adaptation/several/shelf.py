"""What one of several adapters consists of, taken off its base and put on again without a copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.backbones.host import PEFT_KEY, Host
from vpeft.core.backbones.sites.site import Placed
from vpeft.core.backbones.wrappers import named_modules


@dataclass(frozen=True)
class Slot:
    """Where a tensor stands: a parameter or buffer of a module; ``around`` are the modules that contain it."""

    module: nn.Module
    name: str
    around: tuple[nn.Module, ...] = field(repr=False)

    def get(self) -> Tensor:
        """Its values: a tensor that shares its memory."""
        held = self.module._parameters.get(self.name)
        return self.module._buffers[self.name] if held is None else held.data

    def set(self, value: Tensor) -> None:
        """Let another tensor stand there, of another number of classes too; the parameter stays the same object."""
        before = self.get()
        if self.name in self.module._parameters:
            self.module._parameters[self.name].data = value
        else:
            self.module._buffers[self.name] = value
        if before.dim() and before.shape != value.shape:
            for module in self.around:
                for size in ("out_features", "out_channels", "num_classes"):
                    if getattr(module, size, None) == before.shape[0]:
                        setattr(module, size, value.shape[0])


def slots(model: nn.Module, keys: Iterable[str]) -> dict[str, Slot]:
    """The slots of tensors by their keys inside the plain model."""
    modules, found = dict(named_modules(model)), {}
    for key in keys:
        path, _, name = key.rpartition(".")
        parts = path.split(".") if path else []
        around = ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]
        found[key] = Slot(modules[path], name, tuple(modules[one] for one in around if one in modules))
    return found


@dataclass
class Shelf:
    """One adapter while it is not on its base.

    Attributes:
        adaptation: The adaptation.
        slots: Where the tensors stand that it has values of its own for, by key: those of the base that it trains, in
            the order of ``adaptation.trained``, and those of the head.
        values: These values.
        entries: What it places at each site, in the order of :meth:`.Host.every_site`.
        roots: Of each site, whether it runs for the tokens that are read alone (``skip_unread``).
        modules: Its modules at each of :attr:`.Host.owners`, None where it has none.
        heads: Heads of another width that it puts in the place of the base's own.
    """

    adaptation: Adaptation
    slots: dict[str, Slot]
    values: dict[str, Tensor] = field(default_factory=dict)
    entries: list[list[Placed]] = field(default_factory=list)
    roots: list[nn.Module | None] = field(default_factory=list)
    modules: list[nn.Module | None] = field(default_factory=list)
    heads: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def host(self) -> Host:
        return self.adaptation.host

    def take_off(self, own: dict[str, Tensor]) -> None:
        """Leave the base with its own values.

        Args:
            own: The base's own values by key; on its device and in its precision afterwards.
        """
        host, backbone = self.host, self.host.backbone
        self.values = {key: slot.get() for key, slot in self.slots.items()}
        self.heads = {name: getattr(backbone, name) for name in host.plain_heads}
        for name, head in host.plain_heads.items():
            setattr(backbone, name, head)
        host.plain_heads = {}
        self.modules = [owner._modules.pop(PEFT_KEY, None) for owner in host.owners]
        self.entries, self.roots = [], []
        for site in host.every_site():
            self.entries.append(site.entries)
            self.roots.append(site.root)
            site.entries, site.root = [], None
        for key, slot in self.slots.items():
            own[key] = own[key].to(slot.get())  # the model may have been moved since
            slot.set(own[key])
        self._ask(False)

    def put_on(self) -> None:
        """Answer from now on."""
        host, backbone = self.host, self.host.backbone
        for site, entries, root in zip(host.every_site(), self.entries, self.roots, strict=True):
            site.entries, site.root = entries, root
        for owner, modules in zip(host.owners, self.modules, strict=True):
            if modules is not None:
                owner._modules[PEFT_KEY] = modules
        for name, head in self.heads.items():
            host.plain_heads[name] = getattr(backbone, name)
            setattr(backbone, name, head)
        self.follow()
        for key, slot in self.slots.items():
            slot.set(self.values[key])
        self._ask(True)

    def follow(self) -> None:
        """Be on the base's device, and in its mode."""
        device, training = next(self.host.backbone.parameters()).device, self.host.backbone.training
        made = [*self._parts()]
        first = next((tensor for part in made for tensor in chain(part.parameters(), part.buffers())), None)
        if first is not None and first.device != device:
            for part in made:
                part.to(device)
        if made and made[0].training != training:
            for part in made:
                part.train(training)
        self.values = {key: value.to(self.slots[key].get()) for key, value in self.values.items()}

    def _parts(self) -> Iterator[nn.Module]:
        yield from (module for module in self.modules if module is not None)
        yield from self.heads.values()

    @property
    def base_keys(self) -> list[str]:
        """Keys of the tensors of the base that it trains."""
        return list(self.slots)[: len(self.adaptation.trained)]

    def _ask(self, trained: bool) -> None:
        """Let what it trains of the base ask for a gradient, or no longer."""
        for key in self.base_keys:
            self.slots[key].module._parameters[self.slots[key].name].requires_grad_(trained)

    def own_values(self) -> None:
        """Have values apart from those of the base and of other adapters."""
        with torch.no_grad():
            for slot in self.slots.values():
                slot.set(slot.get().clone())
