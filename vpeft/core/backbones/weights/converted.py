"""What a converter hands on: tensors under new names, with the names they had in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vpeft.errors import UserError

BUFFER = "buffer, worked out from the sizes"
HEAD = "head, trained anew for the task"
DECODER = "decoder of masked pretraining"

#: ``#`` in a table of names is a number, a final ``*`` is ``weight`` or ``bias``.
_WILDCARDS = {"#": r"(\d+)", "*": "(weight|bias)"}


def key_patterns(names: Mapping[str, str], back: bool = False) -> dict[str, str]:
    """Patterns for :meth:`Converted.renamed`.

    Args:
        names: A table of names with wildcards, the same ones in the same order on both sides.
        back: Whether the table is read from right to left.

    Returns:
        Patterns of a whole name, each with the template of the new one.
    """
    pairs = [(new, old) for old, new in names.items()] if back else names.items()
    return {_pattern(old): _template(new) for old, new in pairs}


def _pattern(name: str) -> str:
    return "".join(_WILDCARDS.get(letter, re.escape(letter)) for letter in name)


def _template(name: str) -> str:
    parts = re.split(r"[#*]", name)
    return "".join(f"{part}\\g<{i}>" for i, part in enumerate(parts[:-1], 1)) + parts[-1]


def join_parts(parts: Mapping[str, Tensor]) -> Tensor:
    """Parts of one matrix below each other, such as query, key and value.

    Args:
        parts: By their names in the file.

    Raises:
        UserError: Some are of whole numbers, which joining would make floating-point ones; or their shapes do not fit.
    """
    whole = [name for name, part in parts.items() if not part.is_floating_point()]
    if whole and len(whole) < len(parts):
        kind = str(parts[whole[0]].dtype).removeprefix("torch.")
        raise UserError(f"{whole[0]} holds {kind} values, and what belongs to it floating-point ones: fetch it again.")
    if len({part.shape[1:] for part in parts.values()}) > 1 or any(part.dim() == 0 for part in parts.values()):
        shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in parts.items())
        raise UserError(f"{shapes} do not fit together: fetch the file again.")
    return torch.cat(list(parts.values()))


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

    def renamed(self, names: Mapping[str, str], strict: bool = True) -> Converted:
        """The same tensors under the names that the first fitting pattern gives.

        Args:
            names: Patterns of a whole name, each with the template of the new one.
            strict: Whether what no pattern fits is unknown; otherwise it keeps its name.

        Returns:
            The renamed weights.
        """
        new = Converted(left_out=dict(self.left_out), unknown=list(self.unknown))
        for name, tensor in self.state.items():
            fits = (found.expand(to) for pattern, to in names.items() if (found := re.fullmatch(pattern, name)))
            target = next(fits, None if strict else name)
            if target is None:
                new.unknown.append(self.source[name])
            else:
                new.put(target, tensor, self.source[name])
        return new

    def without(self, reasons: Mapping[str, str]) -> Converted:
        """The same weights, where names that fit a pattern of ``reasons`` are left out for that reason."""
        new = Converted(left_out=dict(self.left_out), unknown=list(self.unknown))
        for name, tensor in self.state.items():
            reason = next((why for pattern, why in reasons.items() if re.fullmatch(pattern, name)), None)
            if reason is None:
                new.put(name, tensor, self.source[name])
            else:
                new.left_out[self.source[name]] = reason
        return new
