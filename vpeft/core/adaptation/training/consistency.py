"""The loss of PACE: two passes with other noise and the same draws besides agree on the class scores.

``weight * mean_b ||f_1(x_b) - f_2(x_b)||^2``, the sum over classes, of scores before any softmax; the task's loss is
that of the first pass. DropPath, dropout and whatever else is drawn is the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.options.noise import Consistency, Noise
from vpeft.core.adaptation.options.on_host import OnHost
from vpeft.errors import UserError

NAME = "loss_consistency"
#: Runs a batch: the task's losses, and the scores.
Once = Callable[[Any, Any], tuple[dict[str, Tensor], Tensor]]


def noisy_methods(model: nn.Module) -> list[tuple[Adaptation, OnHost]]:
    """The methods of a model that have noise, each with its adaptation."""
    found = find_adaptations(model).values()
    return [(one, method) for one in found for method in one.on_host.values() if method.method.consistency is not None]


def consistency_loss(model: nn.Module) -> ConsistencyLoss | None:
    """The losses of a model some of whose methods are noisy; None of others.

    Raises:
        UserError: They state different settings.
    """
    noisy = noisy_methods(model)
    if not noisy:
        return None
    made = {method.consistency() for _, method in noisy}
    if len(made) > 1:
        raise UserError("several methods state consistency, and not the same: the loss is one for all of them.")
    (settings,) = made
    head = min(settings.spreads(method.part)[-1] for _, method in noisy)
    return ConsistencyLoss(model, [adaptation for adaptation, _ in noisy], settings, head)


class ConsistencyLoss:
    """The losses of a model some of whose methods are noisy.

    Args:
        model: The model.
        adaptations: Its adaptations.
        made: The settings.
        head: Spread of the noise on the scores.
    """

    def __init__(self, model: nn.Module, adaptations: Iterable[Adaptation], made: Consistency, head: float) -> None:
        self.model, self.adaptations, self.made = model, list(adaptations), made
        self.noise, self.seed, self.steps = Noise(head, "head"), None, 0
        self.last: dict[tuple[str | None, int], Tensor] = {}
        if made.kind == "fast" and get_world_size() > 1:
            raise UserError("consistency kind='fast' keeps the scores of one process: train on one device, or 'lazy'.")

    def head(self, scores: Tensor) -> Tensor:
        """What the head gives, with noise in training."""
        if not self.model.training or self.seed is None:
            return scores
        return scores * self.noise.factor(scores, (self.seed, len(scores)))

    def __call__(self, once: Once, inputs: Any, samples: Any) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of a batch, the task's and its own, and the scores of the first pass."""
        first, second = torch.randint(2**31, (2,)).tolist()
        if self.made.kind == "fast":
            return self._with_last(once, inputs, samples, first)
        if self.made.kind == "lazy":
            self.steps += 1
            if (self.steps - 1) % self.made.step:
                return self._pass(once, inputs, samples, first)
            half = max(1, len(inputs) // 2)
            inputs, samples = _first(inputs, half), _first(samples, half)
        draws = Draws(self.model)
        losses, scores = self._pass(once, inputs, samples, first)
        with draws.again():
            _, others = self._pass(once, inputs, samples, second)
        return {**losses, NAME: self.distance(scores, others)}, scores

    def distance(self, scores: Tensor, others: Tensor) -> Tensor:
        """``weight * mean_b ||f_1 - f_2||^2``."""
        return self.made.weight * (scores - others).float().square().sum(-1).mean()

    def _with_last(self, once: Once, inputs: Any, samples: Any, seed: int) -> tuple[dict[str, Tensor], Tensor]:
        keys = [_key(sample) for sample in samples or ()]
        if len(keys) != len(inputs) or None in keys:
            raise UserError(
                "consistency kind='fast' keeps the scores of every image, and these data do not say which image is "
                "which: let the pipeline pack 'sample_idx', or take kind='full' or 'lazy'."
            )
        losses, scores = self._pass(once, inputs, samples, seed)
        none = scores.new_zeros(scores.shape[-1])
        others = torch.stack([self.last.get(key, none).to(scores) for key in keys])
        for key, row in zip(keys, scores.detach().float().cpu(), strict=True):
            self.last[key] = row
        return {**losses, NAME: self.distance(scores, others)}, scores

    def _pass(self, once: Once, inputs: Any, samples: Any, seed: int) -> tuple[dict[str, Tensor], Tensor]:
        self._seed(seed)
        try:
            losses, scores = once(inputs, samples)
        finally:
            self._seed(None)
        if scores.dim() != 2 or len(scores) != len(inputs):
            raise UserError(
                f"consistency compares the class scores of each image, and the last linear of this "
                f"{type(self.model).__name__} gives {tuple(scores.shape)} for {len(inputs)}: leave it out."
            )
        return losses, scores

    def _seed(self, seed: int | None) -> None:
        self.seed = seed
        for adaptation in self.adaptations:
            adaptation.host.passes.seed = seed

    # What resuming needs --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The scores that ``fast`` keeps, for a checkpoint; empty for the others."""
        if not self.last:
            return {}
        return {"keys": [list(key) for key in self.last], "scores": torch.stack(list(self.last.values()))}

    def resume(self, step: int, state: Mapping[str, Any] | None) -> None:
        """Go on from a checkpoint of a run.

        Args:
            step: How many steps there were before.
            state: What :meth:`state` gave.

        Raises:
            UserError: It lacks the scores.
        """
        self.steps = step
        if self.made.kind != "fast" or not step:
            return
        if not state:
            raise UserError("the checkpoint lacks the scores that consistency kind='fast' compares with: train anew.")
        rows = zip(state["keys"], state["scores"], strict=True)
        self.last = {(path, int(number)): row for (path, number), row in rows}


class Draws:
    """Torch's random numbers from here on, for the CPU and the model's devices."""

    def __init__(self, model: nn.Module) -> None:
        self.devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
        self.start = self._now()

    def _now(self) -> tuple[Tensor, list[Tensor]]:
        return torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in self.devices]

    def _set(self, state: tuple[Tensor, Sequence[Tensor]]) -> None:
        torch.set_rng_state(state[0])
        for device, own in zip(self.devices, state[1], strict=True):
            torch.cuda.set_rng_state(own, device)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within the context the same numbers are drawn once more; behind it, what would have come without."""
        end = self._now()
        self._set(self.start)
        try:
            yield
        finally:
            self._set(end)


def _first(batch: Any, count: int) -> Any:
    if batch is None or isinstance(batch, (Tensor, list, tuple)):
        return None if batch is None else batch[:count]
    raise UserError(f"consistency kind='lazy' halves a batch, and no {type(batch).__name__}: take kind='full'.")


def _key(sample: Any) -> tuple[str | None, int] | None:
    said = getattr(sample, "metainfo", {})
    number = said.get("sample_idx")
    return None if number is None else (said.get("img_path"), int(number))
