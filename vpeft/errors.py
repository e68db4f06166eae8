"""The one exception for wrong use and bad input; the tools print its message as a single line, without a traceback."""

from __future__ import annotations

import difflib
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType

#: Set (``1``), it shows where an error comes from, as the tools' ``--traceback`` does.
TRACEBACK = "VPEFT_TRACEBACK"

#: Which extra of this package brings a package that is imported under this name.
EXTRAS = {
    "mmdet": "dense",
    "mmseg": "dense",
    "mmaction": "video",
    "decord": "video",
    "av": "video",
    "optuna": "tune",
    "ray": "ray",
    "submitit": "slurm",
    "peft": "optional",
    "transformers": "optional",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
}

#: Escape sequences of terminals: colours and movements, titles and links, and those of one sign.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-OQ-WYZ\\`-~]")
#: Signs that turn the direction of the text around them.
_TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


class UserError(ValueError):
    """Wrong use or bad input, in one message: what was wrong, where (path, key, value), and what to do."""


class MethodFault(UserError):
    """A method does what none may do on any host: its author mends it, and no other host is the way out."""


def printable(text: object, lines: bool = False) -> str:
    """Text from a file, a name or a config as a terminal may show it.

    Args:
        text: Anything; its ``str`` is taken.
        lines: Keep line breaks; else they become spaces.

    Returns:
        The text without escape sequences, control characters and signs that turn its direction; what is no Unicode
        (a file's name may be none) as a backslash escape.
    """
    text = str(text)
    if text.isascii() and text.isprintable():  # nearly all
        return text
    text = _ESCAPES.sub("", text).encode("utf-8", "backslashreplace").decode()
    return "".join(c if lines and c == "\n" else _shown(c) for c in text)


def _shown(sign: str) -> str:
    if sign.isspace():
        return " "
    return "" if unicodedata.category(sign) == "Cc" or ord(sign) in _TURNS else sign


def one_line(error: BaseException | str, limit: int = 4000) -> str:
    """An error's message as one printable line."""
    text = " ".join(printable(error).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def closest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name that is most like ``name``, None where nothing is near: a likeness (0 to 1) of ``cutoff``."""
    lower = {k.lower(): k for k in sorted(known)}
    found = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=cutoff)
    return lower[found[0]] if found else None


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown ``name``: the nearest known one, and the whole list.

    Args:
        name: What was asked for.
        known: What exists.

    Returns:
        ``did you mean 'LoRA'? Known: ...``, without the question where nothing is near.
    """
    known = sorted(known)
    close = closest(name, known)
    return f"{'' if close is None else f'did you mean {close!r}? '}Known: {', '.join(known)}."


def missing_package(error: BaseException) -> str | None:
    """What to install where a package is missing, None for an error of another kind or about a package of the core."""
    if not isinstance(error, ImportError):
        return None
    inner = error.__cause__ or error.__context__
    if isinstance(inner, ImportError) and (found := missing_package(inner)) is not None:
        return found
    name = (error.name or "").split(".")[0]
    if name in EXTRAS:
        return f"{name} is not installed, or cannot be imported ({error}): pip install 'vpeft[{EXTRAS[name]}]'."
    if isinstance(error, ModuleNotFoundError) and name and name != "vpeft":
        return f"the package {name} is not installed: pip install {name}, or leave out what asks for it."
    return None


@contextmanager
def importing() -> Iterator[None]:
    """Within the context a machine that lets the package not be imported is named in one line: no folder for temporary
    files or settings, a package that is missing. From Python the exceptions are as ever.
    """
    try:
        yield
    except (OSError, ImportError, KeyboardInterrupt) as error:
        if not os.environ.get(TRACEBACK) and "--traceback" not in sys.argv and sys.excepthook is sys.__excepthook__:
            sys.excepthook = partial(_end, error)
        raise


def _end(met: BaseException, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if error is not met:  # that one was caught, and this is another
        sys.__excepthook__(kind, error, trace)
        return
    if isinstance(error, KeyboardInterrupt):
        raise SystemExit(130)
    if isinstance(error, ImportError):
        what = "install what vpeft needs (pip install vpeft)"
    else:
        what = "set TMPDIR, and where it is named MPLCONFIGDIR, to a folder that can be written"
    print(f"error: vpeft cannot be imported ({one_line(error)}): {what}; --traceback shows where.", file=sys.stderr)
    raise SystemExit(2)
