"""The benchmark of many runs: what is opened and looked at grows with the runs; no time is asserted."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    sys.path.insert(0, str(ROOT))
    try:
        yield importlib.import_module("benchmarks.runs.scale")
    finally:
        sys.path.remove(str(ROOT))


def test_twice_the_runs_are_twice_the_work(script, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(script.time, "sleep", lambda seconds: None)
    said = []
    rows = script.walk_plan(1, 4, 4, said.append)
    ratios = [row for row in rows if "times" in row]
    steps = [row["what"].removesuffix(": x half of the runs") for row in ratios]
    assert steps == [
        "plan",
        "run the first half",
        "started again, run the rest",
        "started again, nothing to do",
        "read the results",
        "read them again",
    ]
    assert [row.get("opened_times") for row in ratios[:-1]] == [None, 2, 2, 2, 2]
    assert [row.get("looks_times") for row in ratios] == [None, 1, 1, None, None, None]  # of eight runs each
    assert rows[-1] == {"what": "runs that are done", "count": 16}
    assert len(said) == 3 * len(steps)


def test_a_plan_without_halves_is_refused(script, monkeypatch):
    monkeypatch.chdir(ROOT)
    for methods, message in ((3, "have no half"), (1000, r"there are \d\d methods")):
        with pytest.raises(SystemExit, match=message):
            script.walk_plan(1, methods, 1, print)
