"""Building models without memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _NumbersOnCPU(TorchFunctionMode):
    """Schedules (of DropPath) are read back as numbers while a model is built, so they need real memory."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@contextmanager
def meta_build() -> Iterator[None]:
    """Within the context, modules are built on the meta device: shapes without values, in no time."""
    with torch.device("meta"), _NumbersOnCPU():
        yield
