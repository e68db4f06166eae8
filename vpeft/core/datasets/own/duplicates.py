"""Which images are the same, or nearly: by the hash of the file, and by what is seen."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

#: Bits of a perceptual hash that may differ (of 64): images that were scaled, cut a little or stored anew.
NEAR_BITS = 4
#: Mean difference of the small pictures of two near images, of 255: drawings share hashes, and differ here.
NEAR_GREY = 6.0
#: Hashes are compared where one of so many parts of them is equal, which one of 5 is where 4 bits differ.
_BANDS = NEAR_BITS + 1
#: Images of one part of a hash that are compared pair by pair; of more the part says nothing.
_CROWD = 2000


def groups_of(digests: Sequence[str], hashes: np.ndarray | None = None, small: np.ndarray | None = None) -> np.ndarray:
    """Number of the group of each sample: what is the same or nearly has one number.

    Args:
        digests: Hash of each file's bytes.
        hashes: ``(N, 64)`` bool, perceptual hashes; None compares files alone.
        small: ``(N, K)`` uint8, small pictures.

    Returns:
        ``(N,)``.
    """
    pairs = [pair for members in _same(digests) for pair in itertools.pairwise(members)]
    if hashes is not None and len(hashes):
        pairs += near_pairs(hashes, small)
    if not pairs:
        return np.arange(len(digests))
    rows, columns = np.array(pairs).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(digests),) * 2)
    return connected_components(graph, directed=False)[1]


def _same(digests: Sequence[str]) -> list[list[int]]:
    found = defaultdict(list)
    for index, digest in enumerate(digests):
        found[digest].append(index)
    return [members for members in found.values() if len(members) > 1]


def near_pairs(hashes: np.ndarray, small: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of images that look the same: few bits of their hashes differ, and little of their small pictures.

    Args:
        hashes: ``(N, 64)`` bool.
        small: ``(N, K)`` uint8.
    """
    found: set[tuple[int, int]] = set()
    for band in np.array_split(np.arange(hashes.shape[1]), _BANDS):
        _, part = np.unique(hashes[:, band], axis=0, return_inverse=True)
        order = np.argsort(part.ravel(), kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(part.ravel()[order])) + 1):
            if 1 < len(members) <= _CROWD:
                found.update(_close(members, hashes, small))
    return sorted(found)


def _close(members: np.ndarray, hashes: np.ndarray, small: np.ndarray) -> list[tuple[int, int]]:
    pairs = []
    for place, one in enumerate(members[:-1]):
        others = members[place + 1 :]
        others = others[(hashes[others] != hashes[one]).sum(1) <= NEAR_BITS]
        grey = np.abs(small[others].astype(np.int16) - small[one].astype(np.int16)).mean(1)
        pairs += [(min(one, other), max(one, other)) for other in others[grey <= NEAR_GREY].tolist()]
    return [(int(a), int(b)) for a, b in pairs]
