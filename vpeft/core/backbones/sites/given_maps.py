"""Maps that a method gives in the place of those of a backbone."""

from __future__ import annotations

from typing import Any

from torch import nn


class MapsHook:
    """Forward hook of a backbone that gives maps: a method's (:attr:`.Flow.maps`) take their place.

    An object, so that it survives ``deepcopy`` and pickle.
    """

    def __init__(self, passes: Any) -> None:
        self.passes = passes

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        maps = self.passes.current.maps
        return output if maps is None else maps
