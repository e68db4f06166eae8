"""The adapters of one base that are served together, and their answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope

import vpeft.apis.adapters as life
from vpeft.apis.predict.load import load
from vpeft.apis.predict.predictor import BOXES, Predictor
from vpeft.apis.predict.results import ClassPrediction, Prediction, prediction
from vpeft.core.adaptation.find import adaptations
from vpeft.core.adaptation.several.adapters import adapters_of
from vpeft.core.families.classes import head_counts
from vpeft.errors import UserError

#: Families whose answers come of one image; clips are files, which no server opens for a client.
FAMILIES = ("classification", "detection", "segmentation")


@dataclass(frozen=True)
class Asked:
    """One image that somebody asks about.

    Attributes:
        adapter: Whose answer is wanted.
        name: What the image is called in the answer.
        sample: It, as :meth:`Served.read` gives it.
        top: How many classes of an image with one label.
        threshold: The least score of a box, or of a class of an image with several labels; None takes the run's own.
    """

    adapter: str
    name: str
    sample: Any
    top: int = 5
    threshold: float | None = None


class Served:
    """Adapters of one base.

    Args:
        runs: By name, what each is opened from: a run's folder, an adapter file; a single one may be merged.
        weights: As of :func:`vpeft.load`.
        device: As of :func:`vpeft.load`.

    Attributes:
        runs: What was opened, by name; the model is one for all.
        counts: Classes of each run's head, by name.
        thresholds: The least score of a class by each run's head, by name; None where an image has one label.
        mixes: Whether adapters may share a pass at all: those of classification may.
        refused: Sets of adapters that could not be mixed, by name; no pass holds one of them again.

    Raises:
        UserError: A run cannot be opened, is of clips, or does not stand on the base of the first, or reads images
            otherwise.
    """

    def __init__(self, runs: Mapping[str, str | Path], weights: str | None = None, device: str | None = None) -> None:
        self.runs: dict[str, Predictor] = {}
        self.counts: dict[str, int] = {}
        self.thresholds: dict[str, float | None] = {}
        for name, source in runs.items():
            run = load(source, weights, device)
            if run.family not in FAMILIES:
                raise UserError(f"{source} is a run of {run.family}: what is served answers for single images.")
            self.counts[name] = max(head_counts(run.model).values(), default=len(run.classes))
            self.thresholds[name] = run.label_threshold
            self.runs[name] = self._joined(name, run) if self.runs else run
            if len(self.runs) == 1 and len(runs) > 1:
                self._name_first(name, run)
        self.mixes = self.first.family == "classification"
        self.refused: list[frozenset[str]] = []

    @property
    def first(self) -> Predictor:
        """The run that brought the model."""
        return next(iter(self.runs.values()))

    def _name_first(self, name: str, run: Predictor) -> None:
        if not adaptations(run.model):
            raise UserError(f"{run.file} is merged into its base: it is served alone. Give the run's folder instead.")
        adapters_of(run.model, name)

    def _joined(self, name: str, run: Predictor) -> Predictor:
        """A further run, its adapter on the model of the first."""
        first = self.first
        for what in ("family", "preprocessing"):
            if getattr(run, what) != getattr(first, what):
                raise UserError(
                    f"{run.file} has another {what} than {first.file}: "
                    f"{getattr(run, what)} against {getattr(first, what)}. Serve it by itself, on another port."
                )
        if run.file.suffix != ".safetensors" or not adaptations(run.model):
            raise UserError(f"{run.file} is no adapter file: give the run's folder, or its adapter.safetensors.")
        ours, theirs = (_around(one.cfg.model.to_dict()) for one in (run, first))
        if other := sorted(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)):
            raise UserError(
                f"{run.file} has another {other[0]} than {first.file}, and the first's would answer for both: serve it "
                "by itself, on another port."
            )
        try:
            life.load_adapter(first.model, run.file, name=name)
        except UserError as error:
            raise UserError(f"{error} What stands on another base is served by itself, on another port.") from error
        return replace(run, model=first.model)

    def need(self, adapter: str | None) -> str:
        """The name of a run that is served; may be left out where there is one.

        Raises:
            UserError: There is none of this name.
        """
        if adapter is None and len(self.runs) == 1:
            return next(iter(self.runs))
        if adapter not in self.runs:
            raise UserError(f"adapter {adapter!r} is none of those served: {', '.join(self.runs)}.")
        return adapter

    def read(self, adapter: str, image: np.ndarray) -> Any:
        """An image, uint8 ``(H, W, 3)`` in BGR order, read as those of the run's test."""
        return self.runs[adapter].read_array(image)

    @torch.no_grad()
    def answer(self, asked: Sequence[Asked]) -> list[Prediction]:
        """Answers in the order of the questions, in as few passes as the adapters can be mixed in."""
        if len(self.runs) == 1:
            return self._pass(asked)
        found: dict[int, Prediction] = {}
        known = list(self.refused)
        waiting = self._groups(asked, range(len(asked)))
        while waiting:
            group = waiting.pop()
            mine = [asked[i] for i in group]
            names = frozenset(one.adapter for one in mine)
            try:
                self._use([one.adapter for one in mine])
                answers = self._pass(mine)
            except UserError:
                if len(names) == 1:
                    self.refused = known  # it may have been the image's fault
                    raise
                self.refused.append(names)
                waiting += self._groups(asked, group)
                continue
            found |= dict(zip(group, answers, strict=True))
        return [found[i] for i in range(len(asked))]

    def _groups(self, asked: Sequence[Asked], rows: Iterable[int]) -> list[list[int]]:
        """Rows that share a pass: sets of adapters none of which holds one that was refused, rows of one together."""
        sets: list[set[str]] = []
        for name in sorted({asked[i].adapter for i in rows}):
            with_it = (own for own in sets if self.mixes and not any(one <= own | {name} for one in self.refused))
            own = next(with_it, None)
            sets.append({name}) if own is None else own.add(name)
        order = sorted(rows, key=lambda i: asked[i].adapter)
        return [[i for i in order if asked[i].adapter in own] for own in sets]

    def _use(self, names: Sequence[str]) -> None:
        life.use(self.first.model, names[0] if len(set(names)) == 1 else list(names))

    def _pass(self, asked: Sequence[Asked]) -> list[Prediction]:
        with DefaultScope.overwrite_default_scope(self.first.scope):
            samples = self.first.model.test_step(pseudo_collate([one.sample for one in asked]))
        return [self._said(one, sample) for one, sample in zip(asked, samples, strict=True)]

    def _said(self, asked: Asked, sample: Any) -> Prediction:
        run = self.runs[asked.adapter]
        least = self.thresholds[asked.adapter]  # of its own head, not of the first run's
        several = least is not None
        threshold = asked.threshold if asked.threshold is not None else least if several else BOXES
        found = prediction(asked.name, sample, run.classes, asked.top, threshold, several)
        if found is None:
            raise UserError(f"{run.file}: its model predicts neither classes nor boxes nor label maps.")
        if isinstance(found, ClassPrediction):  # beside a head of more classes its scores are padded
            count = self.counts[asked.adapter]
            own = [i for i, label in enumerate(found.labels) if label < count]
            parts = {key: [getattr(found, key)[i] for i in own] for key in ("labels", "classes", "scores")}
            found = replace(found, all_scores=found.all_scores[:count], **parts)
        return found


#: What may differ between models that are served as one: what an adapter brings itself, and what only trains.
_OWN = ("num_classes", "init_cfg", "method", "train_cfg", "topk")


def _around(model: Any) -> Any:
    """A model's settings without what is each run's own."""
    if isinstance(model, Mapping):
        kept = {key: value for key, value in model.items() if key not in _OWN and not key.startswith("loss")}
        return {key: _around(value) for key, value in kept.items()}
    return [_around(one) for one in model] if isinstance(model, (list, tuple)) else model
