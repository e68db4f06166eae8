"""Weight-space interpolation: theta(alpha) between the frozen start and the tuned model, for every method.

After Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022 (WiSE-FT):
``theta(alpha) = (1 - alpha) theta_start + alpha theta_tuned``. By what a method is made of:

* **weights**: what merges, and existing parameters that are trained, are interpolated as weights, in float64;
* **contribution**: what a module adds at its place is scaled by alpha. For an affine module that is the same as
  interpolating the merged weights; for others it is the scaling of an output;
* **operation**: where a module changes the number of tokens (prompts, prefixes), the output of the operation around it
  is interpolated between that without and that with the module. For a prefix this is the attention, whose output is an
  average over tokens and prefix; for prompts it is the block; for prompts pooled with the map, the output norm.

A side network reaches the output at one place, whose two values are interpolated like any contribution.
alpha 0 is the frozen start itself, alpha 1 the tuned model itself, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.contributions import Place, contributions, entries, resizing
from vpeft.core.adaptation.find import backbone_prefix, find_adaptation
from vpeft.core.adaptation.storing.adapter_file import head_keys
from vpeft.errors import UserError


class Interpolation:
    """The models between start and tuned model, in place.

    Args:
        model: The tuned model, adapted, nothing merged, in eval mode.
        forward: Runs a forward pass of it, on any input.
        head: Tensors of the head at the start, by their keys in the model; without them the tuned head stays at every
            alpha.

    Attributes:
        weights: Keys of the base's parameters that are interpolated.
        places: What is scaled or interpolated at run time.

    Raises:
        UserError: Nothing lies between the two (a method whose output has another shape than the frozen host's), the
            head's tensors do not fit, or the adapter is merged.
    """

    def __init__(self, model: nn.Module, forward: Callable[[], Any], head: Mapping[str, Tensor] | None = None) -> None:
        self.model, self.adaptation = model, find_adaptation(model)
        if self.adaptation.merged:
            raise UserError("the adapter is merged: unmerge it first, the two ends are no longer apart.")
        self.params = {p.name: p.param for p in self.adaptation.host.parameters()}
        self.start = {name: value.clone() for name, value in self.adaptation.originals.items()}
        self.end: dict[str, Tensor] = {}
        self.folded = self._fold()
        tuned = {**{name: self.params[name].detach().clone() for name in self.start}, **self.end}
        self.end = {name: value for name, value in tuned.items() if not value.cpu().equal(self.start[name].cpu())}
        self.head = self._head(head)
        self.enclosed = resizing(self.adaptation, forward)
        self.places: list[Place] = []
        self._find_places(forward)

    @property
    def weights(self) -> list[str]:
        return sorted(self.end)

    def _fold(self) -> list:
        """Merge, remember what that gives, and unmerge."""
        adaptation = self.adaptation
        if not any(entry.active for entry in entries(adaptation)):
            return []
        try:
            adaptation.merge()
        except UserError:
            return []  # nothing merges, or not on this host: it is scaled
        if not adaptation.merged:
            return []
        folded = [entry for entry in entries(adaptation) if not entry.active]
        self.end = {name: self.params[name].detach().clone() for name in adaptation.merged}
        self.start = {**{name: value.clone() for name, value in adaptation.merged.items()}, **self.start}
        adaptation.unmerge()
        return folded

    def _head(self, head: Mapping[str, Tensor] | None) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Of every tensor of the head: itself, its start, its end."""
        if head is None:
            return {}
        own = {key: value for key, value in self.model.state_dict().items() if key in head_names(self.model)}
        if not own:
            raise UserError("this model has no head outside its backbone that could be interpolated.")
        for key, value in own.items():
            if key not in head or head[key].shape != value.shape:
                found = "is missing" if key not in head else f"has the shape {tuple(head[key].shape)}"
                raise UserError(f"the start of the head: {key} {found}, this model's is {tuple(value.shape)}.")
        return {key: (value, head[key].detach().clone(), value.detach().clone()) for key, value in own.items()}

    def _find_places(self, forward: Callable[[], Any]) -> None:
        """Run once with everything in place: it shows what is changed where, and whether that is possible."""

        def note(place: Place, plain: Tensor, tuned: Tensor) -> Tensor:
            if place not in self.places:
                self.places.append(place)
            return tuned

        with torch.no_grad(), self._switched(self.folded), contributions(self.adaptation, note, self.enclosed):
            forward()

    def how(self) -> dict[str, Any]:
        """Which way was taken, in words, with what it concerns."""
        ways = {}
        if self.weights:
            ways["weights"] = f"{len(self.weights)} tensors of the base interpolated as weights"
        for how, words in (("contribution", "contributions scaled by alpha"), ("operation", "operations interpolated")):
            places = [place for place in self.places if place.how == how]
            if places:
                sites = ", ".join(sorted({f"{place.site} ({place.placement})" for place in places}))
                ways[how] = f"{len(places)} {words}: {sites}"
        ways["head"] = "interpolated" if self.head else "the tuned one throughout"
        return ways

    @contextmanager
    def at(self, alpha: float) -> Iterator[nn.Module]:
        """Within the context the model is theta(alpha).

        Args:
            alpha: From 0, the start, to 1, the tuned model.

        Raises:
            UserError: alpha is outside.
        """
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha={alpha} must be from 0 to 1.")
        with ExitStack() as stack:
            if alpha == 0:
                state = self.model.state_dict()
                tuned = [(state[key], state[key].clone()) for key in head_names(self.model)]
                stack.enter_context(self.adaptation.disabled())
                stack.enter_context(self._written(tuned))  # without an adapter the base has its own head
            if alpha < 1:
                stack.enter_context(self._written([(t, self._between(a, b, alpha)) for t, a, b in self.head.values()]))
            if 0 < alpha < 1:
                values = [(self.params[n], self._between(self.start[n], self.end[n], alpha)) for n in self.weights]
                stack.enter_context(self._written(values))
                stack.enter_context(self._switched(self.folded))
                scaled = contributions(self.adaptation, lambda place, a, b: torch.lerp(a, b, alpha), self.enclosed)
                stack.enter_context(scaled)
            yield self.model

    @staticmethod
    def _between(start: Tensor, end: Tensor, alpha: float) -> Tensor:
        if alpha == 0 or not end.is_floating_point():
            return start if alpha < 1 else end
        value = (1 - alpha) * start.to(end.device).double() + alpha * end.double()
        return value.to(end.dtype)

    @staticmethod
    @contextmanager
    def _written(values: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
        kept = [(tensor, tensor.detach().clone()) for tensor, _ in values]
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in kept:
                    tensor.copy_(value)

    @staticmethod
    @contextmanager
    def _switched(folded: list) -> Iterator[None]:
        for entry in folded:
            entry.active = False
        try:
            yield
        finally:
            for entry in folded:
                entry.active = True


def head_names(model: nn.Module) -> set[str]:
    """Keys of the task's head, outside the backbone or inside (timm)."""
    adaptation: Adaptation = find_adaptation(model)
    heads = tuple(f"{backbone_prefix(model)}{name}." for name in adaptation.host.heads())
    inside = {key for key in model.state_dict() if heads and key.startswith(heads)}
    return head_keys(model) | inside


def head_of(model: nn.Module) -> dict[str, Tensor]:
    """The head's tensors of a model, as a start for that of another run."""
    return {key: value.detach().clone() for key, value in model.state_dict().items() if key in head_names(model)}
