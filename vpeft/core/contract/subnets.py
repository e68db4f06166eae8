"""What a search over the subnets of a method that is a supernet asks of it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

#: A subnet: tuples of numbers or words, so that it can be sorted and written down.
Subnet = tuple[Any, ...]


class SubnetSpace:
    """The subnets of a placed method; a subclass says what one is.

    Attributes:
        limit: Most parameters of a subnet; None means any.
        largest: The whole supernet.
    """

    limit: int | None
    largest: Subnet

    def count(self, subnet: Subnet) -> int:
        """Parameters of a subnet."""
        raise NotImplementedError("state count(subnet)")

    def fields(self, subnet: Subnet) -> dict[str, Any]:
        """The method's hyper-parameters that make a subnet alone."""
        raise NotImplementedError("state fields(subnet)")

    def apply(self, subnet: Subnet) -> None:
        """Use this subnet of the supernet from now on."""
        raise NotImplementedError("state apply(subnet)")

    def draw(self, rng: random.Random) -> Subnet:
        """A random subnet."""
        raise NotImplementedError("state draw(rng)")

    def mutate(self, subnet: Subnet, rng: random.Random) -> Subnet:
        """A subnet that differs a little."""
        raise NotImplementedError("state mutate(subnet, rng)")

    def cross(self, a: Subnet, b: Subnet, rng: random.Random) -> Subnet:
        """A subnet of parts of two."""
        raise NotImplementedError("state cross(a, b, rng)")

    def fits(self, subnet: Subnet) -> bool:
        """Whether something is trained, and no more than the limit."""
        return self.count(subnet) > 0 and (self.limit is None or self.count(subnet) <= self.limit)


class OnAHost(Protocol):
    """What the search knows of a method on its host (:class:`vpeft.core.adaptation.options.on_host.OnHost`)."""

    method: Any

    def subnet_space(self, settings: Mapping[str, Any]) -> SubnetSpace | None:
        """The space of its subnets; None where it has none."""


def find_space(methods: Iterable[OnAHost], settings: Mapping[str, Any]) -> SubnetSpace:
    """The space of the first method that has one.

    Args:
        methods: The methods on their host.
        settings: Of the search (a config's field ``noah``).

    Raises:
        UserError: None has one.
    """
    methods = list(methods)
    for one in methods:
        if (space := one.subnet_space(settings)) is not None:
            return space
    able = sorted(name for name, cls in PEFT_METHODS.module_dict.items() if "subnet_space" in vars(cls))
    names = " and ".join(one.method.registered_name() for one in methods)
    raise UserError(f"{names}: no subnets to search; methods that have some are {', '.join(able)}.")
