"""Parameters that are trained in float32 and read in the precision of the base around them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

_HERE = threading.local()


class Reads:
    """Mixin of a module of the base some of whose own parameters are masters: reading one gives it cast.

    The parameters themselves keep their names, and files, optimisers and state dicts hold them as they are.

    Attributes:
        peft_own: The module's own class.
        peft_masters: Names of the parameters.
        peft_like: A module, and the name of a parameter of it, whose precision they are read in; of each instance.
    """

    peft_own: ClassVar[type]
    peft_masters: ClassVar[tuple[str, ...]]
    peft_like: tuple[nn.Module, str]

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
        made, args, *rest = super().__reduce_ex__(protocol)
        args = tuple(self.peft_own if arg is type(self) else arg for arg in args)
        return _again, (made, args, self.peft_masters), *rest


def _again(made: Callable[..., nn.Module], args: tuple[Any, ...], names: tuple[str, ...]) -> nn.Module:
    module = made(*args)
    module.__class__ = _reading_class(type(module), names)
    return module


@functools.cache
def _reading_class(cls: type, names: tuple[str, ...]) -> type:
    """The subclass of ``cls`` that reads the parameters ``names`` cast; one class each."""
    members: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    members |= {"peft_own": cls, "peft_masters": names, **{name: property(_reader(name)) for name in names}}
    return type(cls.__name__, (Reads, cls), members)


def _reader(name: str) -> Callable[[Reads], Tensor]:
    def read(module: Reads) -> Tensor:
        param = module._parameters[name]
        if not torch.compiler.is_compiling() and getattr(_HERE, "held", False):
            return param
        like, its = module.peft_like
        return param.to(like._parameters[its].dtype)

    return read


def read_cast(modules: Mapping[nn.Module, tuple[str, ...]], like: tuple[nn.Module, str]) -> None:
    """Let parameters be read in the precision of another one.

    Args:
        modules: Names of the own parameters of each module.
        like: Where the other one is.
    """
    for module, names in modules.items():
        module.__dict__["peft_like"] = like
        module.__class__ = _reading_class(type(module), names)


def read_plain(modules: Mapping[nn.Module, tuple[str, ...]]) -> None:
    """The inverse."""
    for module in modules:
        if isinstance(module, Reads):
            module.__class__ = module.peft_own
            del module.__dict__["peft_like"]


@contextmanager
def as_held() -> Iterator[None]:
    """Within the context, in this thread, masters are read as they are, so that they can be told apart and written."""
    before, _HERE.held = getattr(_HERE, "held", False), True
    try:
        yield
    finally:
        _HERE.held = before
