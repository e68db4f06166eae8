"""Do methods make the same mistakes? What stored predictions of several runs have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from vpeft.core.trained.logits import Logits
from vpeft.errors import UserError


def check_same_data(runs: Sequence[Logits]) -> None:
    """Refuse to compare predictions for different samples.

    Raises:
        UserError: Fewer than two runs, or data, samples, labels or classes differ; the message says in what.
    """
    if len(runs) < 2:
        raise UserError(f"{len(runs)} run is nothing to compare: give two runs or more.")
    first = runs[0]
    for other in runs[1:]:
        for key in sorted({*first.data, *other.data}):
            if first.data.get(key) != other.data.get(key):
                raise UserError(
                    f"{first.name} and {other.name} were tested on different data: {key} is {first.data.get(key)!r} "
                    f"and {other.data.get(key)!r}. Compare runs of one test set."
                )
        if first.samples != other.samples or not first.labels.equal(other.labels):
            raise UserError(
                f"{first.name} and {other.name} were tested on different samples or labels: test both again on the "
                "same data."
            )
        if first.logits.shape[1] != other.logits.shape[1]:
            raise UserError(
                f"{first.name} has {first.logits.shape[1]} classes and {other.name} {other.logits.shape[1]}: they "
                "answer different questions."
            )


def agreement(runs: Sequence[Logits]) -> np.ndarray:
    """Share of the samples for which two runs predict the same class, ``(R, R)``."""
    predicted = np.stack([run.predicted.numpy() for run in runs])
    return (predicted[:, None] == predicted[None]).mean(2)


def error_overlap(runs: Sequence[Logits]) -> np.ndarray:
    """Of the samples that at least one of two runs gets wrong, the share that both get wrong, ``(R, R)``.

    1 where neither makes a mistake.
    """
    wrong = np.stack([~run.correct.numpy() for run in runs])
    both = (wrong[:, None] & wrong[None]).sum(2)
    either = (wrong[:, None] | wrong[None]).sum(2)
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def most_confident(run: Logits, k: int, correct: bool) -> list[int]:
    """Places of the ``k`` correct (or wrong) predictions of which a run is most sure, in that order.

    Fewer where it has fewer; among equal confidences the earlier sample comes first.

    Raises:
        UserError: ``k`` is below 1.
    """
    if k < 1:
        raise UserError(f"k={k} must be at least 1.")
    places = np.flatnonzero(run.correct.numpy() == correct)
    order = np.argsort(-run.confidence.numpy()[places], kind="stable")
    return places[order][:k].tolist()


def regions(sets: Mapping[str, set]) -> dict[tuple[str, ...], int]:
    """How many elements lie in exactly these sets and no other, for every combination that is not empty."""
    counts: dict[tuple[str, ...], int] = {}
    for element in set().union(*sets.values()):
        inside = tuple(name for name, members in sets.items() if element in members)
        counts[inside] = counts.get(inside, 0) + 1
    return counts


def shared(sets: Mapping[str, set]) -> float:
    """Mean over pairs of sets of what they share: intersection over union, 1 where both are empty."""
    pairs = list(combinations(sets.values(), 2))
    return float(np.mean([len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs]))
