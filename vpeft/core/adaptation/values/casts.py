"""What enters and leaves a base of another precision than what is around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

#: A module, and the name of a parameter of it.
Like = tuple[nn.Module, str]


def cast(value: Any, dtype: torch.dtype, only: torch.dtype | None = None) -> Any:
    """Floating tensors of any nested value in another precision; with ``only``, those of that precision."""

    def one(x: Any) -> Any:
        fits = isinstance(x, Tensor) and x.is_floating_point() and only in (None, x.dtype)
        return x.to(dtype) if fits else x

    return tree_map(one, value)


class EntryCast:
    """Forward pre-hook that casts a module's inputs; an object, so that it survives ``deepcopy`` and pickle.

    Args:
        like: Whose precision they are cast to.
    """

    def __init__(self, like: Like) -> None:
        self.like = like

    @property
    def dtype(self) -> torch.dtype:
        """The precision."""
        return self.like[0]._parameters[self.like[1]].dtype

    def __call__(self, module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, Any]:
        return cast(args, self.dtype), cast(given, self.dtype)


class ExitCast(EntryCast):
    """Forward hook that casts the outputs that are of the base's precision to that of the inputs."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> Any:
        came: list[torch.dtype] = []
        tree_map(
            lambda x: came.append(x.dtype) if isinstance(x, Tensor) and x.is_floating_point() else None, (args, given)
        )
        return cast(output, came[0], self.dtype) if came and came[0] is not self.dtype else output
