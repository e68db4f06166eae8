"""How a host states its tiny backbone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

Shape = tuple[int, ...]
Options = dict[str, Any]


@dataclass(frozen=True)
class Tiny:
    """A tiny backbone of a host.

    Attributes:
        build: Builds it; options change it.
        shape: Of one input, without the batch: ``(3, H, W)``, or ``(3, T, H, W)`` or whatever the class takes.
        grid: Map after the last block for that input.
        prefix: Tokens before the map.
        variants: Options under which the untouched backbone must stay bit-identical, each with the shape of an input;
            ``other-size`` takes another than ``shape`` and is gone through with every method too.
        larger: Options under which position tables have another size, with the shape of an input; None where no option
            changes them, and no shape where the class takes one size alone.
        call: Calls the model on a batch; None calls ``forward_features`` where there is one, and the model otherwise.
    """

    build: Callable[..., nn.Module]
    shape: Shape
    grid: Shape
    prefix: int
    variants: dict[str, tuple[Options, Shape]]
    larger: tuple[Options, Shape | None] | None
    call: Callable[[nn.Module, Tensor], Any] | None


#: By the registered name of the host, and ``<host>/<variant>`` where a variant's blocks are of another kind.
TINY: dict[str, Tiny] = {}


def tiny(
    host: str,
    shape: Shape,
    *,
    grid: Shape,
    prefix: int = 0,
    variants: dict[str, Options | tuple[Options, Shape]],
    larger: tuple[Options, Shape | None] | None = None,
    kinds: Collection[str] = (),
    call: Callable[[nn.Module, Tensor], Any] | None = None,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """State the builder of a host; see :class:`Tiny`. A variant that names no shape takes that of the host.

    ``kinds`` are the variants whose blocks are of another kind: what is gone through on every host is on them too.
    """

    def state(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        stated = {name: v if isinstance(v, tuple) else (v, shape) for name, v in variants.items()}
        TINY[host] = Tiny(build, shape, grid, prefix, {"plain": ({}, shape), **stated}, larger, call)
        for name in kinds:
            TINY[f"{host}/{name}"] = _variant(f"{host}/{name}")
        return build

    return state


def tiny_of(name: str) -> Tiny:
    """Of a host, or of ``<host>/<variant>``."""
    return TINY[name] if name in TINY else _variant(name)


def _variant(name: str) -> Tiny:
    host, variant = name.split("/")
    options, shape = TINY[host].variants[variant]
    return replace(
        TINY[host],
        build=functools.partial(TINY[host].build, **options),
        shape=shape,
        variants={"plain": ({}, shape)},
        larger=None,
    )
