"""What a test looked at: how many images, which were answered rightly, from which regions of photographs they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def answers_kept(right: Sequence[bool], regions: Sequence[str] | None = None) -> dict[str, Any]:
    """Answers as a result holds them.

    Args:
        right: Of every image, in the order of the data.
        regions: Of every image the region that it is from; None where each stands for itself.

    Returns:
        ``images``, their number, and ``right``, a bit for each as hexadecimal digits; where regions are known
        ``regions`` instead, by name how many were right, of how many.
    """
    if regions is None:
        return {"images": len(right), "right": np.packbits(np.asarray(right, bool)).tobytes().hex()}
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for answer, region in zip(right, regions, strict=True):
        found[region][0] += bool(answer)
        found[region][1] += 1
    return {"images": len(right), "regions": dict(found)}


def units_of_test(tested: Mapping[str, Any] | None) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]] | None:
    """What :func:`answers_kept` holds, unit by unit: an image, or the images of a region.

    Returns:
        How many were right, of how many, and the names of the regions (none where a unit is an image); None where a
        result says nothing of it.
    """
    if not tested:
        return None
    if "regions" in tested:
        names = tuple(sorted(tested["regions"]))
        counts = np.array([tested["regions"][name] for name in names])
        return counts[:, 0], counts[:, 1], names
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(tested["right"]), np.uint8), count=tested["images"])
    return bits.astype(int), np.ones(len(bits), int), ()
