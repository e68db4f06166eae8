"""What a converter hands on: tensors under new names, with the names they had in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

BUFFER = "buffer, worked out from the window size"
HEAD = "head, trained anew for the task"
DECODER = "decoder of masked-image pretraining"


@dataclass
class Converted:
    """Weights between a file and a backbone.

    Attributes:
        state: Tensors by their present names.
        source: The file's name of each (several, joined by ``+``, where they were joined into one).
        left_out: The file's names that are knowingly left out, each with the reason.
        unknown: The file's names that the format does not have.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Converted:
        """A file's own tensors under the file's own names."""
        return cls(dict(state), {key: key for key in state})

    def put(self, name: str, tensor: Tensor, source: str) -> None:
        """Add a tensor under ``name`` that comes from ``source``."""
        self.state[name] = tensor
        self.source[name] = source

    def renamed(self, names: Mapping[str, str], reasons: Mapping[str, str]) -> Converted:
        """The same tensors under the names that the first fitting pattern gives.

        Args:
            names: Patterns of a whole name, each with the template of the new one.
            reasons: Patterns of names to leave out, each with the reason; looked at first.

        Returns:
            The renamed weights; what no pattern fits is unknown.
        """
        new = Converted(left_out=dict(self.left_out), unknown=list(self.unknown))
        for name, tensor in self.state.items():
            source = self.source[name]
            reason = next((why for pattern, why in reasons.items() if re.fullmatch(pattern, name)), None)
            fits = (found.expand(to) for pattern, to in names.items() if (found := re.fullmatch(pattern, name)))
            if reason is not None:
                new.left_out[source] = reason
            elif (target := next(fits, None)) is not None:
                new.put(target, tensor, source)
            else:
                new.unknown.append(source)
        return new
