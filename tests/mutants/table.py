"""The table of mutants: small faults, each a text of one file of the package and what takes its place."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
AREAS = Path(__file__).parent / "areas"


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Args:
        name: Its name, unique over all areas.
        area: File of ``areas/`` that it stands in, without suffix.
        fault: What is wrong in it, one line.
        file: File of the package, below ``vpeft/``.
        before: Text that stands exactly once in that file.
        after: What takes its place.
        tests: Paths below ``tests/`` that concern it.
        k: Expression of pytest's ``-k``; empty for all of them.
        slow: Whether the tests are marked slow.
        reason: Why it may survive; empty where it must die.
    """

    name: str
    area: str
    fault: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    k: str = ""
    slow: bool = False
    reason: str = ""

    @property
    def checks(self) -> tuple[str, ...]:
        """The arguments of pytest that run its tests."""
        slow = ("--slow",) if self.slow else ()
        return (*(f"tests/{path}" for path in self.tests), *(("-k", self.k) if self.k else ()), *slow)

    def applied(self, text: str) -> str:
        """The text of its file with the fault in it.

        Raises:
            ValueError: The text before does not stand there exactly once, or what comes out is no Python.
        """
        if text.count(self.before) != 1:
            count = text.count(self.before)
            raise ValueError(f"{self.name}: its text before stands {count} times in {self.file}: bring it up to date")
        mutated = text.replace(self.before, self.after)
        if ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(text)):
            raise ValueError(f"{self.name}: it changes nothing of what {self.file} does")
        return mutated


def mutants(areas: Iterable[str] = (), names: Iterable[str] = ()) -> list[Mutant]:
    """The mutants of some areas, or of these names; all where neither is given.

    Raises:
        ValueError: An area or a name that there is not.
    """
    found = [
        Mutant(area=file.stem, **{**row, "tests": tuple(row["tests"])})
        for file in sorted(AREAS.glob("*.yaml"))
        for row in yaml.safe_load(file.read_text(encoding="utf-8"))
    ]
    areas, names = set(areas), set(names)
    unknown = (areas - {m.area for m in found}) | (names - {m.name for m in found})
    if unknown:
        raise ValueError(f"no such area or mutant: {', '.join(sorted(unknown))}")
    return [m for m in found if (not areas or m.area in areas) and (not names or m.name in names)]
