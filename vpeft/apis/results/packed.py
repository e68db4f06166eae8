"""Results of many runs in one small file, to be kept in a repository or sent: a line of JSON each, compressed by xz.

A line has ``file``, the name below the folder that it was in, and ``result``, what that file said. Configs, which are
long and alike, cost little. A file that was cut or changed is refused whole; every result has its checksum.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from vpeft.errors import UserError
from vpeft.files import need_file, write_atomically

#: What such a file's name ends with.
SUFFIX = ".jsonl.xz"
#: The longest line that is read, in bytes: more is no result of a run.
LONGEST_LINE = 64 * 2**20
#: Bytes that decompressing may take (xz -9 takes 65 MiB), and those that are read at once.
MOST_MEMORY, PIECE = 128 * 2**20, 2**20


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of packed results, by its name."""
    return os.fspath(path).endswith(SUFFIX)


def write_packed(path: str | os.PathLike[str], results: Mapping[PurePath, Mapping[str, Any]]) -> Path:
    """Write results into one file, atomically; the same results give the same bytes.

    Args:
        path: The file, ``NAME.jsonl.xz``.
        results: What each result file said, by its place below the folder.

    Raises:
        UserError: The name has another ending, or the file cannot be written.
    """
    if not is_packed(path):
        raise UserError(f"{path}: packed results are read by their ending: name the file NAME{SUFFIX}.")
    named = {place.as_posix(): result for place, result in results.items()}
    lines = [json.dumps({"file": name, "result": named[name]}, sort_keys=True) + "\n" for name in sorted(named)]
    return write_atomically(path, lzma.compress("".join(lines).encode(), check=lzma.CHECK_SHA256, preset=9))


def each_packed(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """The name and the text of every result of a file.

    Raises:
        UserError: The file is not there, was cut or changed, or holds something else.
    """
    need_file(path, "file of results")
    seen: set[str] = set()
    try:
        for line in _lines(path):
            name, text = _entry(line, path)
            if name in seen:
                raise UserError(f"{path} has {name} twice: pack the results again.")
            seen.add(name)
            yield name, text
    except (EOFError, lzma.LZMAError, OSError) as error:
        raise UserError(f"{path} was cut or damaged ({error}): pack the results again.") from error


def _lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Lines, without ever holding more than one that is too long or a window that no file of ours has."""
    xz, rest = lzma.LZMADecompressor(lzma.FORMAT_XZ, MOST_MEMORY), b""
    with open(path, "rb") as file:
        while not xz.eof:
            data = file.read(PIECE) if xz.needs_input else b""
            if xz.needs_input and not data:
                raise EOFError("it ends early")
            *lines, rest = (rest + xz.decompress(data, PIECE)).split(b"\n")
            yield from lines
            if len(rest) > LONGEST_LINE:
                raise EOFError("a line is too long for a result")
        if rest or xz.unused_data or file.read(1):
            raise EOFError("something follows the last line")


def _entry(line: bytes, path: str | os.PathLike[str]) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        name, text = entry["file"], json.dumps(entry["result"])
        place = PurePosixPath(name)
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise UserError(f"{path} is no file of results ({type(error).__name__}: {error}).") from error
    if place.is_absolute() or ".." in place.parts or place.as_posix() != name or "\0" in name:
        raise UserError(f"{path}: {name!r:.300} is no name below a folder.")
    return name, text


def folder_of(path: str | os.PathLike[str]) -> Path:
    """The folder that stands for that of the results: what lies beside them there lies beside the file."""
    return Path(path).parent
