"""Which method was gone through on which host, as it was found: the table that tests write and pages show."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from vpeft.files import alone, write_atomically
from vpeft.registry import PEFT_METHODS

CATALOGUE = Path(__file__).with_name("catalogue.csv")


@dataclass(frozen=True, order=True)
class CatalogueRow:
    """One pair.

    Attributes:
        host: Registered name of the host, or ``<host>/<variant>`` where the variant's blocks are of another kind.
        method: Registered name of the method.
        result: ``passed``, ``refused`` or ``failed``.
        reason: Of a refusal, in the words of the error; of a failure, the check and what it said.
        variants: How many other options of the backbone passed, and those that did not with the reason; empty where
            they have not been gone through since.
        date: Of the run, ``2026-11-28``.
        commit: Of the code, with ``+`` where it had changes.
        code: Digest of the files of host, backbone and method: where it is the same, the pair need not be gone
            through again. Empty where it is not known.
    """

    host: str
    method: str
    result: str
    reason: str
    variants: str
    date: str
    commit: str
    code: str


def read_catalogue(path: Path = CATALOGUE) -> list[CatalogueRow]:
    """What was found, sorted; nothing where nothing has been written."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return sorted(CatalogueRow(**row) for row in csv.DictReader(file))


def write_catalogue(found: Iterable[CatalogueRow], path: Path = CATALOGUE) -> None:
    """Put pairs into the table; those that were there get the new result, and shards may write at once."""
    with alone(path.parent):
        rows = {(one.host, one.method): one for one in [*read_catalogue(path), *found]}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([field.name for field in fields(CatalogueRow)])
        writer.writerows(astuple(one) for one in sorted(rows.values()))
        write_atomically(path, text.getvalue().encode())


def whole_hosts(found: Iterable[CatalogueRow]) -> list[CatalogueRow]:
    """The rows of a matrix without holes: of hosts that have been gone through with every method that was with any, or
    of methods that were with every host; whichever are more.
    """
    rows = sorted(found)
    methods, hosts = defaultdict(set), defaultdict(set)
    for one in rows:
        methods[one.host].add(one.method)
        hosts[one.method].add(one.host)
    known = set(PEFT_METHODS.module_dict) & hosts.keys()
    of_hosts = [one for one in rows if methods[one.host] >= known]
    of_methods = [one for one in rows if hosts[one.method] == methods.keys()]
    return max(of_hosts, of_methods, key=len)


def untried(found: Iterable[CatalogueRow]) -> list[str]:
    """Methods that are not among the rows."""
    return sorted(set(PEFT_METHODS.module_dict) - {one.method for one in found})
