"""How a backbone lays out what passes a site; placed modules always see a stream ``(B, N, C)``."""

from __future__ import annotations

import enum

from torch import Tensor


class Layout(enum.Enum):
    """One way of laying out a stream; an enumeration, so that copies and pickles of a model have the same."""

    TOKENS = "B N C"
    MAP_LAST = "B H W C"
    MAP_FIRST = "B C H W"

    @property
    def tokens(self) -> bool:
        """Other tokens than those of the map fit in, as prompts do."""
        return self is Layout.TOKENS

    def open(self, x: Tensor) -> Tensor:
        """The backbone's own tensor as a stream ``(B, N, C)``."""
        if self is Layout.TOKENS:
            return x
        return x.flatten(1, -2) if self is Layout.MAP_LAST else x.flatten(2).transpose(1, 2)

    def close(self, y: Tensor, like: Tensor) -> Tensor:
        """The inverse, for the shape of the backbone's own tensor ``like``."""
        if self is Layout.TOKENS:
            return y
        if self is Layout.MAP_LAST:
            return y.unflatten(1, like.shape[1:-1])
        return y.transpose(1, 2).unflatten(2, like.shape[2:])


TOKENS, MAP_LAST, MAP_FIRST = Layout
