"""How a backbone lays out what passes a site; placed modules always see a stream ``(B, N, C)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Layout(NamedTuple):
    """One way of laying out a stream.

    Attributes:
        open: The backbone's own tensor as a stream ``(B, N, C)``.
        close: The inverse, for the shape of the backbone's own tensor.
        tokens: Other tokens than those of the map fit in, as prompts do.
    """

    open: Callable[[Tensor], Tensor]
    close: Callable[[Tensor, Tensor], Tensor]
    tokens: bool


#: ``(B, N, C)``.
TOKENS = Layout(lambda x: x, lambda y, like: y, True)
#: ``(B, H, W, C)``.
MAP_LAST = Layout(lambda x: x.flatten(1, -2), lambda y, like: y.unflatten(1, like.shape[1:-1]), False)
#: ``(B, C, H, W)``.
MAP_FIRST = Layout(
    lambda x: x.flatten(2).transpose(1, 2), lambda y, like: y.transpose(1, 2).unflatten(2, like.shape[2:]), False
)
