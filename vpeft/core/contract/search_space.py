"""What a search over settings may try. Methods declare theirs beside their hyper-parameters (``Method.space``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Factor between two neighbouring values of a range that is gone through: four to a power of ten.
STEP = 10**0.25


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, drawn evenly in their logarithm."""

    low: float
    high: float

    def steps(self) -> list[float]:
        """Values from end to end in equal factors, as near to :data:`STEP` as they can be, with three digits."""
        count = max(1, round(math.log(self.high / self.low) / math.log(STEP)))
        return [float(f"{self.low * (self.high / self.low) ** (i / count):.3g}") for i in range(count + 1)]


#: Values of a hyper-parameter: a list of choices, or a range.
Values = list[Any] | Range

#: What every method shares; its own space goes before it.
COMMON: dict[str, Values] = {"lr": Range(1e-4, 1e-1)}
#: Learning rates of methods that train the backbone's own matrices.
LOW_LR = Range(1e-5, 1e-2)
#: Of the head alone, and of prompts: on the nano ViT the head's best lies above 0.1, and prompts lose nothing there.
HIGH_LR = Range(1e-3, 1.0)


def is_number(value: Any) -> bool:
    """Whether a value is a number; a switch is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def at_end(value: Any, values: Values) -> bool:
    """Whether a value that was found best lies at an end of what was searched, so that a better one may lie beyond.

    Of a range the ends are half a :data:`STEP` wide. Of choices only three numbers or more have ends, and zero is none:
    nothing lies below it.

    Args:
        value: What was found.
        values: What it was searched in.
    """
    if isinstance(values, Range):
        return value <= values.low * STEP**0.5 or value >= values.high / STEP**0.5
    if len(values) < 3 or not all(map(is_number, values)):
        return False
    return value != 0 and value in (min(values), max(values))


def size_of_space(space: Mapping[str, Values]) -> str | None:
    """The size or scale among the names of a space: the first with numbers to choose from that is no rate of dropping
    something; None where there is none.
    """
    for name, values in space.items():
        if isinstance(values, list) and all(map(is_number, values)) and "drop" not in name.split("_"):
            return name
    return None
