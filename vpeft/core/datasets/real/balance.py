"""Draws from labelled images, as many of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def balanced_parts(labels: np.ndarray, sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    """Disjoint sets of indices with ``size / classes`` of each class, in random order; what is left over comes last.

    Args:
        labels: Label of each image, ``(N,)``.
        sizes: Of the sets, multiples of the number of classes.
        seed: Of the draw.
    """
    rng = np.random.default_rng([len(labels), seed])
    classes = np.unique(labels)
    by_class = [rng.permutation(np.flatnonzero(labels == c)) for c in classes]
    parts, first = [], 0
    for size in sizes:
        last = first + size // len(classes)
        parts.append(rng.permutation(np.concatenate([indices[first:last] for indices in by_class])))
        first = last
    return [*parts, rng.permutation(np.concatenate([indices[first:] for indices in by_class]))]
