"""The command ``vpeft``: it finds a word, imports its file alone, and runs it.

A word is a file of :mod:`vpeft.apis.commands.words`, in one of its rooms; its docstring's first line is what the help
says of it. Nothing else has to be told of a new one.
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

from vpeft.apis.commands.ending import run_main, say
from vpeft.errors import UserError, closest

WORDS = Path(__file__).parent / "words"
#: In the order in which they are shown.
ROOMS = ("run", "data", "study", "look")
HELP, VERSION = ("-h", "--help"), "--version"


def word_files() -> dict[str, Path]:
    """The file of every word, room by room; ``_`` in a file's name is ``-`` in its word."""
    files = (file for room in ROOMS for file in sorted((WORDS / room).glob("[!_]*.py")))
    return {file.stem.replace("_", "-"): file for file in files}


def main() -> None:
    """Run the word that the command line begins with, and end the process."""
    run_main(_run)


def _run() -> int | None:
    word, *rest = sys.argv[1:] or HELP
    if word in HELP:
        say(overview())
        return 0
    if word == VERSION:
        say(f"vpeft {sys.modules['vpeft'].__version__}")
        return 0
    known = word_files()
    if (file := known.get(word.replace("_", "-"))) is None:
        close = closest(word, known)
        question = "" if close is None else f"did you mean {close!r}? "
        raise UserError(f"vpeft {word}: there is no such word: {question}vpeft --help lists them.")
    sys.argv = [f"vpeft {word}", *rest]  # what argparse calls the program
    return import_module(f"vpeft.apis.commands.words.{file.parent.name}.{file.stem}").main()


def overview() -> str:
    """The words in their rooms with a line each, read without importing them."""
    lines = ["usage: vpeft WORD ...", "", _first_line(Path(__file__).parents[2] / "__init__.py")]
    known = word_files()
    width = max(map(len, known))
    for room in ROOMS:
        lines += ["", _first_line(WORDS / room / "__init__.py")]
        lines += [f"  {w:<{width}}  {_first_line(file)}" for w, file in known.items() if file.parent.name == room]
    return "\n".join([*lines, "", "vpeft WORD --help says what a word takes. vpeft --version names the version."])


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0].replace("``", "")
