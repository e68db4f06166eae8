"""NOAH's search space: which subnets there are, and how they are drawn, mutated and crossed."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from vpeft.core.backbones.host import Host
from vpeft.core.contract.method import Method
from vpeft.core.contract.subnets import SubnetSpace
from vpeft.errors import UserError

#: The three kinds of modules and the field that holds their sizes.
KINDS = {"prompt": "prompts", "lora": "ranks", "adapter": "widths"}
#: Sizes of every block, kind by kind in the order of ``KINDS``; 0 where a module is off.
Sizes = tuple[tuple[int, ...], ...]


class Space(SubnetSpace):
    """Per kind of module, the first d blocks have one, each of a size of its own.

    Args:
        host: Where the supernet is placed.
        key: Its key.
        method: Itself.
        settings: ``choices``, the sizes; ``depths``, values of d (without, the quarters of the blocks); ``limit``;
            ``depth_prob`` and ``size_prob`` of a mutation.
    """

    def __init__(self, host: Host, key: str, method: Method, settings: Mapping[str, Any]) -> None:
        self.host, self.key, self.method, self.settings = host, key, method, settings
        self.blocks, self.limit = len(host.blocks), settings.get("limit")
        self.choices = tuple(settings["choices"])
        self.depths = tuple(settings.get("depths") or quarters(self.blocks))
        for field in KINDS.values():
            sizes = getattr(method, field)
            if sizes != max(self.choices) and sizes != (max(self.choices),) * self.blocks:
                raise UserError(f"{field}={sizes!r} of the supernet must be the largest choice, {max(self.choices)}.")
        if not all(1 <= depth <= self.blocks for depth in self.depths):
            raise UserError(f"depths={self.depths} must be from 1 to {self.blocks}, the blocks of the host.")
        self.largest: Sizes = ((max(self.choices),) * self.blocks,) * len(KINDS)

    def count(self, subnet: Sizes) -> int:
        return dataclasses.replace(self.method, **self.fields(subnet)).count(self.host)

    def fields(self, subnet: Sizes) -> dict[str, list[int]]:
        return dict(zip(KINDS.values(), map(list, subnet), strict=True))

    def apply(self, subnet: Sizes) -> None:
        for block, *sizes in zip(self.host.blocks, *subnet, strict=True):
            modules = block.placed(self.key)
            for kind, size in zip(KINDS, sizes, strict=True):
                modules[kind].active = size

    def draw(self, rng: random.Random) -> Sizes:
        return tuple(self._pad(rng.choices(self.choices, k=rng.choice(self.depths))) for _ in KINDS)

    def mutate(self, subnet: Sizes, rng: random.Random) -> Sizes:
        """With ``depth_prob`` a kind gets another depth (cut, or continued at random); with ``size_prob`` a block
        another size. The authors' code does the first alone.
        """
        depth_prob, size_prob = self.settings["depth_prob"], self.settings["size_prob"]
        new = []
        for sizes in subnet:
            active = [size for size in sizes if size]
            if rng.random() < depth_prob:
                depth = rng.choice(self.depths)
                active = active[:depth] + rng.choices(self.choices, k=max(0, depth - len(active)))
            active = [rng.choice(self.choices) if rng.random() < size_prob else size for size in active]
            new.append(self._pad(active))
        return tuple(new)

    def cross(self, a: Sizes, b: Sizes, rng: random.Random) -> Sizes:
        """Every kind whole from one parent or the other."""
        return tuple(rng.choice(pair) for pair in zip(a, b, strict=True))

    def _pad(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return (*sizes, *(0,) * (self.blocks - len(sizes)))


def quarters(blocks: int) -> tuple[int, ...]:
    """A quarter, half, three quarters and all of the blocks: 3, 6, 9, 12 of 12."""
    return tuple(sorted({max(1, blocks * i // 4) for i in range(1, 5)}))
