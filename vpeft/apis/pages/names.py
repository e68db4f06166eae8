"""Which names of timm a host reads: the table that ``benchmarks/hosts/timm_names.py`` writes and a page shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from vpeft.files import write_atomically

NAMES = Path(__file__).with_name("timm_names.csv")


@dataclass(frozen=True, order=True)
class NamesRow:
    """Names of one module that have the same answer.

    Attributes:
        module: Of timm, such as ``vision_transformer``.
        result: ``accepted``, ``no prompts`` (all methods but those that add tokens) or ``refused``.
        reason: Of a refusal or of the missing prompts.
        count: How many names.
        names: The names of a refusal, with a space between them.
    """

    module: str
    result: str
    reason: str
    count: int
    names: str


def read_names(path: Path = NAMES) -> list[NamesRow]:
    """What was found, sorted; nothing where nothing has been written."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return sorted(NamesRow(**{**row, "count": int(row["count"])}) for row in csv.DictReader(file))


def write_names(module: str, found: Iterable[NamesRow], path: Path = NAMES) -> None:
    """Put a module's rows in the place of those that it had."""
    rows = sorted([*(row for row in read_names(path) if row.module != module), *found])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(NamesRow)])
    writer.writerows(astuple(row) for row in rows)
    write_atomically(path, text.getvalue().encode())
