"""The whole matrix: what a pair's tests found is written into the table that the page shows."""

import datetime
import functools
import hashlib
import inspect
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from support.hosts import build, tiny_of
from vpeft.apis.pages.catalogue import CatalogueRow, read_catalogue, write_catalogue
from vpeft.core.backbones.find import find_host
from vpeft.registry import PEFT_METHODS

ROOT = Path(__file__).parents[2]
HOSTS_ROOM = "vpeft.core.backbones.hosts."
#: Between two times that what was found is written.
SECONDS = 5


@functools.cache
def host_files(host: str) -> frozenset[str]:
    """The files of a host, of its block kinds and of its tiny backbone; what all hosts share is left out."""
    read = find_host(build(host))
    stated = (cls for kind in (type(read), *(block.kind for block in read.blocks)) for cls in kind.__mro__)
    files = {inspect.getsourcefile(cls) for cls in stated if cls.__module__.startswith(HOSTS_ROOM)}
    builder = tiny_of(host).build
    return frozenset({*files, inspect.getsourcefile(getattr(builder, "func", builder))})


@functools.cache
def code_of(host: str, method: str) -> str:
    """Digest of the files of a pair."""
    files = {*host_files(host), inspect.getsourcefile(PEFT_METHODS.get(method))}
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in sorted(files))).hexdigest()[:10]


@functools.cache
def rows_at_first() -> dict[tuple[str, str], CatalogueRow]:
    """The table as it was when this process began."""
    return {(one.host, one.method): one for one in read_catalogue()}


def gone_through(host: str, method: str) -> CatalogueRow | None:
    """The row of a pair that did not fail, and whose files have not changed since."""
    found = rows_at_first().get((host, method))
    return found if found and found.result != "failed" and found.code == code_of(host, method) else None


def commit() -> str:
    """The present one, with ``+`` where files differ from it; the table itself aside."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
    table = ":!vpeft/apis/pages/catalogue.csv"
    changed = subprocess.run([*git, "status", "--porcelain", "--", ".", table], capture_output=True, text=True).stdout
    return name + "+" * bool(changed)


class WritesResults:
    """Plugin: what is found of pairs is written down every few seconds, so that a run that is stopped loses little."""

    def __init__(self) -> None:
        self.commit = commit()
        self.rows = dict(rows_at_first())
        self.unwritten: list[CatalogueRow] = []
        self.written = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "catalogue":
                row = self.found(**json.loads(value))
                self.rows[row.host, row.method] = row
                self.unwritten.append(row)
        if time.monotonic() - self.written > SECONDS:
            self.pytest_sessionfinish()

    def pytest_sessionfinish(self) -> None:
        if self.unwritten:
            write_catalogue(self.unwritten)
        self.unwritten, self.written = [], time.monotonic()

    def found(self, host: str, method: str, **told: str) -> CatalogueRow:
        """A pair anew, or with what has been found of its variants."""
        if "result" in told:
            now = {"date": datetime.date.today().isoformat(), "commit": self.commit, "code": code_of(host, method)}
            return CatalogueRow(host, method, **told, variants="", **now)
        return replace(self.rows[host, method], **told)
