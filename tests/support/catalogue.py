"""The whole matrix: what a pair's tests found is written into the table that the page shows."""

import datetime
import functools
import hashlib
import inspect
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from support.hosts import build, tiny_of
from vpeft.apis.pages.catalogue import CatalogueRow, read_catalogue, write_catalogue
from vpeft.core.backbones.find import find_host
from vpeft.registry import PEFT_METHODS

ROOT = Path(__file__).parents[2]
HOSTS_ROOM = "vpeft.core.backbones.hosts."


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


def gone_through(host: str, method: str) -> CatalogueRow | None:
    """The row of a pair that did not fail, and whose files have not changed since."""
    rows = {(one.host, one.method): one for one in read_catalogue()}
    found = rows.get((host, method))
    return found if found and found.result != "failed" and found.code == code_of(host, method) else None


def commit() -> str:
    """The present one, with ``+`` where files differ from it; the table itself aside."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
    table = ":!vpeft/apis/pages/catalogue.csv"
    changed = subprocess.run([*git, "status", "--porcelain", "--", ".", table], capture_output=True, text=True).stdout
    return name + "+" * bool(changed)


class WritesResults:
    """Plugin: every pair is written down as it is done, so that a run that is stopped loses none."""

    def __init__(self) -> None:
        self.commit = commit()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "catalogue":
                write_catalogue([self.found(**json.loads(value))])

    def found(self, host: str, method: str, **told: str) -> CatalogueRow:
        """A pair anew, or with what has been found of its variants."""
        if "result" in told:
            now = {"date": datetime.date.today().isoformat(), "commit": self.commit, "code": code_of(host, method)}
            return CatalogueRow(host, method, **told, variants="", **now)
        (before,) = [one for one in read_catalogue() if (one.host, one.method) == (host, method)]
        return replace(before, **told)
