"""The whole matrix: what a pair's tests found is written into the table that the page shows."""

import datetime
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from vpeft.apis.pages.catalogue import CatalogueRow, read_catalogue, write_catalogue

ROOT = Path(__file__).parents[2]


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
            return CatalogueRow(
                host, method, **told, variants="", date=datetime.date.today().isoformat(), commit=self.commit
            )
        (before,) = [one for one in read_catalogue() if (one.host, one.method) == (host, method)]
        return replace(before, **told)
