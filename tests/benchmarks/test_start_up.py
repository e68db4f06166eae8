"""The benchmark of starting: processes are measured, and figures made of them; no time is asserted."""

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
        yield importlib.import_module("benchmarks.starting.start_up")
    finally:
        sys.path.remove(str(ROOT))


def test_the_time_is_that_of_the_process_and_its_own_processes(script):
    work = "import time\nwhile time.process_time() < {}: pass"
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', '''{work.format(0.4)}'''])"
    assert script.seconds([sys.executable, "-c", work.format(0.3)]) >= 0.3
    assert script.seconds([sys.executable, "-c", child]) >= 0.4
    with pytest.raises(SystemExit, match=r"(?s)has failed:.*ZeroDivisionError"):
        script.seconds([sys.executable, "-c", "1 / 0"])


def test_every_round_behind_the_first_is_kept(script, monkeypatch):
    asked = []

    def seconds(command):
        asked.append(command)
        return float(len(asked))

    monkeypatch.setattr(script, "seconds", seconds)
    rows = script.measure(2, "train,")
    assert [list(row) for row in rows] == [[script.BASE, *script.TRAININGS]] * 2
    assert len(asked) == 3 * len(rows[0])
    assert min(min(row.values()) for row in rows) > len(rows[0])


def test_the_entries_exist(script, monkeypatch):
    from vpeft.apis.commands.app import word_files
    from vpeft.apis.config.names import located
    from vpeft.apis.config.recipes import compose

    monkeypatch.chdir(ROOT)
    assert {words[0] for words in script.COMMANDS.values()} - {"--help"} <= set(word_files())
    assert (ROOT / script.IMAGE).is_file()
    for words in script.TRAININGS.values():
        assert located(words[0]).is_file() or compose(words[0]) is not None
