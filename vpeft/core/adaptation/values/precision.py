"""In which precision an adapter is kept and computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.kept.few_bits import FewBits
from vpeft.errors import UserError
from vpeft.registry import nearest

HALF = (torch.float16, torch.bfloat16)
_KNOWN = {str(dtype).removeprefix("torch."): dtype for dtype in (*HALF, torch.float32, torch.float64)}


@dataclass
class Precision:
    """In which precision a model's parts are kept.

    Attributes:
        base: Names of the types of the base's parameters.
        adapter: The same of the PEFT modules' parameters; empty without any.
        trained_in_half: Parameters that are trained in half precision, by type.
    """

    base: list[str] = field(default_factory=list)
    adapter: list[str] = field(default_factory=list)
    trained_in_half: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people."""
        adapter = f", adapter {', '.join(self.adapter)}" if self.adapter else ""
        said = [f"precision: base {', '.join(self.base)}{adapter}"]
        for name, count in self.trained_in_half.items():
            least = torch.finfo(_KNOWN[name]).eps / 2
            said.append(
                f"trained in {name}: {count:,} parameters, whose steps below about {least:.1g} of a value are lost in "
                "rounding: keep the base in float32 and run it under autocast"
            )
        return said


def named_dtype(dtype: Any) -> torch.dtype | None:
    """The precision that a user has named, as a ``torch.dtype`` or by its name; None stays None.

    Raises:
        UserError: It is none that an adapter can be kept in.
    """
    if dtype is None or dtype in _KNOWN.values():
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in _KNOWN:
        raise UserError(f"dtype={dtype!r} of the adapter: {nearest(name, _KNOWN)}")
    return _KNOWN[name]


def adapter_dtype(params: Iterable[HostParam], wanted: torch.dtype | None) -> torch.dtype:
    """``wanted``, or the base's, but float32 on a half base: small steps would vanish in the rounding of half ones.

    The base's is that of the first of its parameters that is a floating one.
    """
    base = next((p.param.dtype for p in params if p.param.is_floating_point()), torch.float32)
    return wanted or (torch.float32 if base in HALF else base)


def sample(modules: Iterator[nn.Module]) -> tuple[nn.Module, str] | None:
    """A module and the name of its parameter that shows the precision of the modules; None where none has any."""
    for module in modules:
        for part in module.modules():
            for name, param in part._parameters.items():
                if param is not None and param.is_floating_point():
                    return part, name
    return None


def precisions(hosts: Iterable[Host], adapters: Iterable[nn.Module], model: nn.Module) -> Precision:
    """The present precisions of adapted backbones, of their adapters, and of what is trained in half."""
    found = Precision()
    params = [p.param for host in hosts for p in host.parameters()]
    frozen = {
        param.kind if isinstance(param, FewBits) else dtype_name(param.dtype)
        for param in params
        if not param.requires_grad
    }
    trained = {dtype_name(param.dtype) for param in params if param.requires_grad}
    apart = frozen and trained - frozen
    found.base = sorted(frozen or trained) + [f"{name} where it is trained" for name in sorted(apart or ())]
    found.adapter = sorted({dtype_name(p.dtype) for module in adapters for p in module.parameters()})
    for param in model.parameters():
        if param.requires_grad and param.dtype in HALF:
            name = dtype_name(param.dtype)
            found.trained_in_half[name] = found.trained_in_half.get(name, 0) + param.numel()
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
