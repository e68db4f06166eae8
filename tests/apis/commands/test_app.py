"""The command ``vpeft``: every file in the rooms is a word, and what needs no torch does not wait for it."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vpeft
from vpeft.apis.commands import app

ROOT = Path(__file__).parents[3]
WORDS = app.word_files()


def command(*words, cwd=None):
    """``python -m vpeft``, with the names of the modules that it imported."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    call = [sys.executable, "-X", "importtime", "-m", "vpeft", *words]
    done = subprocess.run(call, env=env, cwd=cwd, capture_output=True, text=True, timeout=300)
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    said = [line for line in lines if not line.startswith("import time:")]
    return done.returncode, done.stdout, said, imported


@pytest.fixture(autouse=True)
def _arguments_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vpeft"])  # the command gives its word to argparse there


def ended(capsys, *argv):
    sys.argv = ["vpeft", *argv]
    with pytest.raises(SystemExit) as end:
        app.main()
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_the_help_lists_every_word_and_imports_nothing_large():
    status, out, said, imported = command("--help")
    assert (status, said) == (0, [])
    assert not {"torch", "mmengine", "numpy", "rich"} & imported
    for word, file in WORDS.items():
        (line,) = re.findall(rf"^  {word} +(.+)$", out, flags=re.MULTILINE)
        assert line in file.read_text().replace("``", "").splitlines()[0]
        assert len(line) <= 100
    rooms = [out.index(app._first_line(app.WORDS / room / "__init__.py")) for room in app.ROOMS]
    assert rooms == sorted(rooms)


def test_a_words_help_and_a_refusal_import_nothing_large():
    for words, expected in ((("train", "--help"), 0), (("trian",), 2)):
        status, _, _, imported = command(*words)
        assert status == expected
        assert not {"torch", "mmengine"} & imported


def test_what_needs_no_torch_imports_none():
    found = {name: file for name, file in WORDS.items() if name != "train"}
    for words in [*([word, "--help"] for word in found), ["list", "methods"], ["list", "configs"], ["list", "zoo"]]:
        status, _, said, imported = command(*words)
        assert (status, said) == (0, []), words
        assert "torch" not in imported, words


def test_a_word_runs_with_everything_loaded(tmp_path):
    status, out, said, _ = command("list", "methods", "--json", cwd=tmp_path)
    assert status == 0, said
    assert '"name": "LoRA"' in out


@pytest.mark.parametrize("word", WORDS)
def test_every_word_says_what_it_takes(word, capsys):
    status, out, _ = ended(capsys, word, "--help")
    assert status == 0
    assert out.startswith(f"usage: vpeft {word} ")
    assert app._first_line(WORDS[word]).rstrip(".")[:30] in " ".join(out.split())


@pytest.mark.parametrize("word", WORDS)
def test_every_word_refuses_a_flag_that_it_does_not_know(word, capsys):
    status, out, err = ended(capsys, word, "--no-such-flag")
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert f"vpeft {word} --help" in line or "vpeft data" in line


def test_every_tool_is_a_word_and_every_word_is_in_a_room():
    assert {file.name for file in app.WORDS.iterdir() if file.is_dir() and file.name[0] != "_"} == set(app.ROOMS)
    assert len(WORDS) == len([file for file in app.WORDS.rglob("*.py") if file.name != "__init__.py"])
    tools = {file.stem: file.read_text() for file in (ROOT / "tools").rglob("*.py")}
    for name, text in tools.items():
        file = WORDS[name.replace("_", "-")]
        assert f"from vpeft.apis.commands.words.{file.parent.name}.{name} import main" in text
    for file in WORDS.values():
        assert callable(import_module(f"vpeft.apis.commands.words.{file.parent.name}.{file.stem}").main)


def test_without_a_word_and_with_an_unknown_one(capsys):
    assert ended(capsys) == (0, f"{app.overview()}\n", "")
    assert ended(capsys, "--version") == (0, f"vpeft {vpeft.__version__}\n", "")
    assert ended(capsys, "benchmrk")[2] == (
        "error: vpeft benchmrk: there is no such word: did you mean 'benchmark'? vpeft --help lists them.\n"
    )
    assert ended(capsys, "--traceback")[0] == 0
    assert "did you mean" not in ended(capsys, "#")[2]
    assert ended(capsys, "pretrain_nano", "--help")[0] == 0
