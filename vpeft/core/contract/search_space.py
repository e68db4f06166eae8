"""What a search over settings may try. Methods declare theirs beside their hyper-parameters (``Method.space``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, drawn evenly in their logarithm."""

    low: float
    high: float


#: Values of a hyper-parameter: a list of choices, or a range.
Values = list[Any] | Range

#: What every method shares; its own space goes before it.
COMMON: dict[str, Values] = {"lr": Range(1e-4, 3e-2)}
#: Learning rates of methods that train the backbone's own matrices.
LOW_LR = Range(1e-5, 3e-3)
