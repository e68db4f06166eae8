"""What files hold, kept beside them in one SQLite file, so that a hundred thousand of them are not opened again.

The files stay the truth. An entry is used only while its file's size, times of change, and inode are those that it was
read with; a file that was changed within the last :data:`RACY` seconds is not kept yet, since a second change within
one tick of the clock would look alike. An index that is lost, damaged, of another version, or of another vpeft is made
anew from the files; one that is locked for long, or lies in a folder that cannot be written, is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import time
import zlib
from pathlib import Path
from typing import Any

#: Seconds that a file must have been left alone before its entry is kept, and those that a locked index is waited for.
RACY, PATIENCE = 2.0, 5.0

_TABLE = b"CREATE TABLE entries (name BLOB PRIMARY KEY, state BLOB NOT NULL, seal BLOB NOT NULL, value BLOB NOT NULL)"
#: Errors after which the file may be whole, in SQLite's words (Python 3.10 does not tell its codes).
_PASSING = re.compile("locked|busy|readonly|unable to open|full|disk I/O")
_KEEP = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)"


def file_state(path: str | os.PathLike[str]) -> bytes:
    """What tells a file from what was there before: size, times of change of its content and of itself, inode.

    Raises:
        OSError: There is none.
    """
    found = os.stat(path)
    return b"%d %d %d %d" % (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


class Index:
    """Values by name, each valid for one state of its file. Several processes may have it open.

    Args:
        file: The SQLite file; made where it is not there.
        version: Of what is kept; entries of another are forgotten.
    """

    def __init__(self, file: str | os.PathLike[str], version: str) -> None:
        self.file, self.version = Path(file), version
        self._number = zlib.crc32(version.encode()) % 2**31 or 1  # 0 is a new file's
        self._latest = time.time_ns() - int(RACY * 1e9)
        self._new: list[tuple[bytes, bytes, bytes, bytes]] = []
        self._seen: set[bytes] = set()
        self._base: sqlite3.Connection | None = None
        self._closed_to_us = False
        self._open()

    def get(self, name: bytes, state: bytes) -> Any | None:
        """The value that was kept of a file in this state, None where there is none."""
        self._seen.add(name)
        for kept_state, seal, packed in self._ask("SELECT state, seal, value FROM entries WHERE name = ?", name):
            whole = isinstance(packed, bytes) and seal == self._seal(name, state, packed)
            if kept_state == state and whole:
                return json.loads(zlib.decompress(packed))
        return None

    def put(self, name: bytes, state: bytes, value: Any) -> None:
        """Keep a value, as JSON, from :meth:`close` on; not where its file may change unseen."""
        if max(map(int, state.split()[1:3])) < self._latest:
            packed = zlib.compress(json.dumps(value).encode(), 1)
            self._new.append((name, state, self._seal(name, state, packed), packed))

    def close(self) -> None:
        """Write what is new, forget the files that were not asked for, and let go. An index that cannot be written is
        left as it is.
        """
        if self._base is None and not self._closed_to_us:  # it was damaged
            self._open()
        gone = [(name,) for (name,) in self._ask("SELECT name FROM entries") if name not in self._seen]
        if self._base is not None and (self._new or gone):
            try:
                self._base.execute("BEGIN IMMEDIATE")
                self._base.executemany("DELETE FROM entries WHERE name = ?", gone)
                self._base.executemany(_KEEP, self._new)
                self._base.execute("COMMIT")
            except sqlite3.Error as error:
                self._leave(error)
        if self._base is not None:
            self._base.close()
            self._base = None

    def _open(self) -> None:
        try:
            self._connect()
            if self._state() == (self._number, _TABLE):
                return
            if self._state() != (0, b""):  # another version's
                self._remove()
                self._connect()
            self._base.execute("PRAGMA page_size = 16384")  # several entries in one
            self._base.execute("BEGIN IMMEDIATE")
            if self._state() == (0, b""):  # else another process was first
                self._base.execute(_TABLE.decode())
                self._base.execute(f"PRAGMA user_version = {self._number}")
            self._base.execute("COMMIT")
            if self._state() != (self._number, _TABLE):
                raise sqlite3.OperationalError(f"{self.file} is another version's and readonly")
        except sqlite3.Error as error:
            self._leave(error)

    def _connect(self) -> None:
        self._base = sqlite3.connect(self.file, timeout=PATIENCE, isolation_level=None)
        self._base.text_factory = bytes  # damaged text is no error

    def _state(self) -> tuple[int, bytes]:
        """Version and table."""
        (number,) = self._base.execute("PRAGMA user_version").fetchone()
        tables = self._base.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        return number, b"; ".join(sql for (sql,) in tables)

    def _ask(self, question: str, *values: Any) -> list[Any]:
        if self._base is None:
            return []
        try:
            return self._base.execute(question, values).fetchall()
        except sqlite3.Error as error:
            self._leave(error)
            return []

    def _leave(self, error: sqlite3.Error) -> None:
        """Go on without it; one that is no whole database goes, and is made anew."""
        if _PASSING.search(str(error)):
            self._closed_to_us = True
            if self._base is not None:
                self._base.close()
        else:
            self._remove()
        self._base = None

    def _remove(self) -> None:
        if self._base is not None:
            self._base.close()
        for name in (self.file, Path(f"{self.file}-journal")):  # a journal would be played into the new one
            with contextlib.suppress(OSError):
                name.unlink()

    def _seal(self, name: bytes, state: bytes, packed: bytes) -> bytes:
        """SHA-256 over all of an entry: SQLite itself does not see a byte that has changed."""
        return hashlib.sha256(b"\0".join((self.version.encode(), name, state, packed))).digest()
