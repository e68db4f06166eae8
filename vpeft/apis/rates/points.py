"""Which settings of a method are tried: rates from end to end of its range, rates beside the best, then sizes there."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vpeft.apis.config.load import load_config
from vpeft.apis.config.names import located
from vpeft.apis.config.recipes import rows_of_table, split
from vpeft.apis.tune.space import adapted_place, config_value, dotted, possible_values
from vpeft.core.contract.build import build_methods
from vpeft.core.contract.search_space import COMMON, Range, is_number, size_of_space
from vpeft.core.contract.values import check_values, type_hints
from vpeft.errors import UserError
from vpeft.files import unreadable
from vpeft.registry import nearest

#: Rates beside the best of those that are tried first.
BESIDE = 2
#: Of the thirteen rates of a declared range every so many-th is tried first, the finest that the trials allow.
EVERY = (1, 2, 3, 4, 6)
#: Sizes besides the method's own that are tried, at the best rate and at the nearest, so many in all.
SIZES, RATES = 2, 3


@dataclass
class RateBudget:
    """What a plan's field ``search`` says.

    Attributes:
        trials: Trials of each method on each task.
        seed: Of every training.
        rates: Learning rates in the place of those that the methods declare.
    """

    trials: int = 11
    seed: int = 0
    rates: list[float] | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> RateBudget:
        """The budget of a plan's field.

        Raises:
            UserError: An unknown field, where the nearest is named, or a value that cannot be.
        """
        known = type_hints(cls)
        for key in fields:
            if key not in known:
                raise UserError(f"plan: search.{key}: {nearest(key, known)}")
        check_values("plan: search", known, {"trials": (2, 10_000), "seed": (0, 2**32 - 1)}, fields, None)
        return cls(**fields)


@dataclass
class RateSpace:
    """What is searched of a config.

    Attributes:
        rates: Learning rates that are tried first, rising.
        size: Name of the size or scale, None where the method has none.
        own: The table's size.
        others: The method's other sizes, the nearest first.
        takes: Tells whether the host takes a size.
    """

    rates: list[float]
    size: str | None = None
    own: Any = None
    others: list[Any] = dataclasses.field(default_factory=list)
    takes: Callable[[Any], bool] = lambda size: True

    @classmethod
    def of(cls, config: str, options: Mapping[str, Any], budget: RateBudget) -> RateSpace:
        """The space of a config's method.

        Args:
            config: The config.
            options: Settings by dotted key that all trials have.
            budget: How many trials there are, and the rates in the place of those of the method's declared range.

        Raises:
            UserError: The config has no method, or fewer than two rates are to be tried, or more than there are trials.
        """
        place, backbone = adapted_place(load_config(config, options=options))
        methods = build_methods(backbone["method"])
        space = methods[0].search_space() if len(methods) == 1 else dict(COMMON)
        found = sorted(set(budget.rates or _first(space["lr"], budget.trials - BESIDE)))
        if len(found) < 2 or found[0] <= 0:
            raise UserError(f"{config}: rates {found}: a search needs two or more, all above 0.")
        if budget.trials < len(found):
            raise UserError(
                f"plan: search.trials={budget.trials} is less than the {len(found)} rates of {config}: every "
                "method has the same number of trials, so give as many as the most rates that a method has."
            )
        size = size_of_space(space)
        own = None if size is None else _own_size(config, dotted(size, place), size)
        if not is_number(own) or dotted(size, place) in options:
            return cls(found)
        others = [value for value in space[size] if value != own and value > 0]
        ordered = sorted(others, key=lambda value: (abs(_log_ratio(value, own)), value))
        return cls(found, size, own, ordered, lambda value: _takes(config, options, dotted(size, place), value))

    def first(self) -> list[dict[str, Any]]:
        """The rates from end to end, at the table's own size."""
        return [self._at(rate) for rate in self.rates]

    def second(self, best: float, left: int) -> list[dict[str, Any]]:
        """Rates on both sides of the best one, in the middle between it and the next.

        Args:
            best: The best of :attr:`rates`.
            left: Trials that are left.
        """
        return [self._at(rate) for rate in between(_near(self.rates, best), best, min(left, BESIDE))]

    def third(self, tried: Sequence[float], best: float, left: int) -> list[dict[str, Any]]:
        """Other sizes at the best rate, then at those beside it, then further rates between.

        Args:
            tried: All rates that were tried at the method's own size.
            best: The best of them.
            left: Trials that are left.
        """
        near = _near(sorted(tried), best)
        order = sorted(near, key=lambda rate: (abs(_log_ratio(rate, best)), rate))[:RATES]
        sizes = list(itertools.islice(filter(self.takes, self.others), SIZES))
        points = [{"lr": rate, self.size: size} for rate in order for size in sizes][:left]
        return points + [self._at(rate) for rate in between(near, best, left - len(points))]

    def _at(self, rate: float) -> dict[str, Any]:
        return {"lr": rate, **({self.size: self.own} if self.size else {})}


def _first(declared: Range | Sequence[float], most: int) -> Sequence[float]:
    """The rates that are tried first: of a range both ends and what lies between, at most so many where that can be."""
    if not isinstance(declared, Range):
        return declared
    steps = declared.steps()
    return next((steps[::every] for every in EVERY if len(steps[::every]) <= most), steps[:: EVERY[-1]])


def _near(rates: Sequence[float], best: float) -> Sequence[float]:
    at = rates.index(best)
    return rates[max(at - 1, 0) : at + 2]


def between(rates: Sequence[float], best: float, count: int) -> list[float]:
    """So many values between neighbouring rates in equal factors, those nearest to the best one, rising."""
    pairs = list(itertools.pairwise(rates))
    parts = -(-count // len(pairs)) + 1
    found = [float(f"{low * (high / low) ** (i / parts):.3g}") for low, high in pairs for i in range(1, parts)]
    return sorted(sorted(found, key=lambda rate: abs(_log_ratio(rate, best)))[:count])


def _log_ratio(a: float, b: float) -> float:
    return math.log(a / b)


def _own_size(config: str, key: str, name: str) -> Any:
    """The size as the table says it, before any search; that of a config that is a file of its own as it says it."""
    composed = split(config)
    if composed is not None and unreadable(located(config)) == "does not exist":
        method, recipe = composed
        plain = recipe.load()
        row = {} if "over" in plain else rows_of_table(plain, recipe.folder)[0].get(method)
        if isinstance(row, Mapping) and row:
            return row.get(name, getattr(build_methods(row)[0], name))
    return config_value(load_config(config), key)


def _takes(config: str, options: Mapping[str, Any], key: str, value: Any) -> bool:
    try:
        return bool(possible_values(config, options, key, [value]))
    except UserError:
        return False
