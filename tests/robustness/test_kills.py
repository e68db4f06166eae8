"""Tools that are killed and started again: one of each signal always, the whole campaign among the slow tests."""

import re

import pytest

from robustness.files import ROOT
from robustness.kills import SUBJECTS, torment
from robustness.own_process import in_own_process


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_a_run_that_is_killed_and_stopped_ends_as_if_it_was_not(tmp_path):
    report = torment("train", kills=1, terms=1, seed=0, folder=tmp_path)
    assert report.faults == []
    assert (len(report.killed), len(report.ended)) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("tool", SUBJECTS)
def test_thirteen_kills_and_three_terminations_change_nothing(tool, tmp_path):
    words = ("--tools", tool, "--kills", "13", "--terms", "3")
    status, lines = in_own_process("kills.py", *words, folder=tmp_path)
    assert status == 0, "\n".join(lines)
    assert re.fullmatch(r"13 SIGKILLs and 3 SIGTERMs in \d+ s: 0 faults", lines[-1])
