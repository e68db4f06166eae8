"""Lines of lists: a path and a label each, or a path alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from vpeft.errors import UserError
from vpeft.files import read_text

#: What file systems hold: bytes of one name, and of a whole path.
LONGEST_NAME, LONGEST_PATH = 255, 4095
#: A label is a whole number; eighteen digits fit into 64 bits.
_LABEL = r"[+-]?[0-9]{1,18}"
SPACED = re.compile(rf"(?P<path>.*\S)\s+(?P<label>{_LABEL})")
SEPARATED = re.compile(rf"(?P<path>.*[^\s,])(?:\s+|\s*,\s*)(?P<label>{_LABEL})")


def list_lines(file: Path, what: str = "list", missing: str = "give another path") -> Iterator[tuple[str, str]]:
    """The lines of a list that are not blank, and where each stands: ``<file>:<number>``, counted from 1.

    Raises:
        UserError: There is no such file, or it is no text in UTF-8.
    """
    for number, line in enumerate(read_text(file, what, missing).split("\n"), start=1):
        if line.strip():
            yield f"{file}:{number}", line.strip()


def path_and_label(line: str, where: str, pattern: re.Pattern[str], form: str) -> tuple[str, int]:
    """The path and the label of a line.

    Args:
        line: The line.
        where: Where it stands, for messages.
        pattern: With the groups ``path`` and ``label``.
        form: What the pattern asks for, for messages.

    Raises:
        UserError: The line is of another form, or its path is none that a file can have.
    """
    found = pattern.fullmatch(line)
    if found is None:
        raise UserError(f"{where}: {cut(line)} is not `{form}`, the label a whole number.")
    check_name(found["path"], where)
    return found["path"], int(found["label"])


def check_name(path: str, where: str) -> None:
    """Refuse a path that no file can have, before it is looked for.

    Raises:
        UserError: A name is too long or holds what names cannot hold.
    """
    try:
        encoded = os.fsencode(path)
    except (TypeError, UnicodeEncodeError) as error:
        raise UserError(f"{where}: {cut(path)} is no path of a file ({error}).") from error
    if b"\0" in encoded:
        raise UserError(f"{where}: {cut(path)} is no path of a file (it holds a NUL byte).")
    if encoded.rpartition(b"/")[2] in (b"", b".", b".."):
        raise UserError(f"{where}: {cut(path)} is no path of a file (it names a folder).")
    longest = max(map(len, encoded.split(b"/")))
    if longest > LONGEST_NAME or len(encoded) > LONGEST_PATH:
        raise UserError(
            f"{where}: {cut(path)} is no path of a file: a name has {longest} bytes and the path {len(encoded)}, and "
            f"file systems hold {LONGEST_NAME} and {LONGEST_PATH}."
        )


def cut(value: object, length: int = 80) -> str:
    """A value as Python writes it, shortened for a message."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
