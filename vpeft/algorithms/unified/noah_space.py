"""NOAH's search space: which subnets there are, and how they are drawn, mutated and crossed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from vpeft.algorithms.unified.noah import KINDS, NOAH
from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.errors import UserError
from vpeft.registry import HOOKS

#: Sizes of every block, kind by kind in the order of ``KINDS``; 0 where a module is off.
Subnet = tuple[tuple[int, ...], ...]


@dataclass
class Space:
    """Per kind of module, the first d blocks have one, each of a size of its own.

    Attributes:
        adaptation: The supernet.
        choices: Sizes.
        depths: Values of d.
        limit: Most parameters (:meth:`NOAH.count`); None means any.
    """

    adaptation: Adaptation
    choices: tuple[int, ...]
    depths: tuple[int, ...]
    limit: int | None = None

    def __post_init__(self) -> None:
        self.blocks = len(self.adaptation.host.blocks)
        found = [(key, method) for key, method in self.adaptation.methods.items() if isinstance(method, NOAH)]
        if not found:
            raise UserError("the config has no method NOAH to search the sizes of.")
        self.key, method = found[0]
        if method.blocks is not None:
            raise UserError("a supernet is in all blocks: leave blocks= out, and let depths say in how many.")
        for field in KINDS.values():
            sizes = getattr(method, field)
            if sizes != max(self.choices) and sizes != (max(self.choices),) * self.blocks:
                raise UserError(f"{field}={sizes!r} of the supernet must be the largest choice, {max(self.choices)}.")
        if not all(1 <= depth <= self.blocks for depth in self.depths):
            raise UserError(f"depths={self.depths} must be from 1 to {self.blocks}, the blocks of the host.")

    @classmethod
    def of(cls, adaptation: Adaptation, settings: Mapping[str, Any]) -> Space:
        """The space of a config's field ``noah``; without ``depths`` they are the quarters of the blocks."""
        depths = settings.get("depths") or quarters(len(adaptation.host.blocks))
        return cls(adaptation, tuple(settings["choices"]), tuple(depths), settings.get("limit"))

    def count(self, subnet: Subnet) -> int:
        """Parameters of a subnet."""
        return NOAH(**dict(zip(KINDS.values(), subnet, strict=True))).count(self.adaptation.host)

    def fits(self, subnet: Subnet) -> bool:
        """Whether it is within the limit."""
        return self.limit is None or self.count(subnet) <= self.limit

    def apply(self, subnet: Subnet) -> None:
        """Use these sizes in the supernet."""
        for block, *sizes in zip(self.adaptation.host.blocks, *subnet, strict=True):
            modules = block.placed(self.key)
            for kind, size in zip(KINDS, sizes, strict=True):
                modules[kind].active = size

    def draw(self, rng: random.Random) -> Subnet:
        """A random subnet."""
        return tuple(self._pad(rng.choices(self.choices, k=rng.choice(self.depths))) for _ in KINDS)

    def mutate(self, subnet: Subnet, rng: random.Random, depth_prob: float, size_prob: float) -> Subnet:
        """With ``depth_prob`` a kind gets another depth (cut, or continued at random); with ``size_prob`` a block
        another size. The authors' code does the first alone.
        """
        new = []
        for sizes in subnet:
            active = [size for size in sizes if size]
            if rng.random() < depth_prob:
                depth = rng.choice(self.depths)
                active = active[:depth] + rng.choices(self.choices, k=max(0, depth - len(active)))
            active = [rng.choice(self.choices) if rng.random() < size_prob else size for size in active]
            new.append(self._pad(active))
        return tuple(new)

    @staticmethod
    def cross(a: Subnet, b: Subnet, rng: random.Random) -> Subnet:
        """Every kind whole from one parent or the other."""
        return tuple(rng.choice(pair) for pair in zip(a, b, strict=True))

    def _pad(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return (*sizes, *(0,) * (self.blocks - len(sizes)))


@HOOKS.register_module()
class SupernetHook(Hook):
    """Trains another subnet in every iteration, drawn from the run's seed and the iteration alone.

    The space is that of the config's field ``noah``.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the supernet."""
        self.space = Space.of(find_adaptation(unwrap(runner.model)), runner.cfg.noah)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Draw this iteration's subnet."""
        self.space.apply(self.space.draw(random.Random(f"{runner.seed} {runner.iter}")))

    def after_train(self, runner: Runner) -> None:
        """The whole supernet is active again."""
        self.space.apply(((max(self.space.choices),) * self.space.blocks,) * len(KINDS))


def quarters(blocks: int) -> tuple[int, ...]:
    """A quarter, half, three quarters and all of the blocks: 3, 6, 9, 12 of 12."""
    return tuple(sorted({max(1, blocks * i // 4) for i in range(1, 5)}))
