"""What is kept between runs: records by key, memory-mapped, shared by processes, whole or not there, with a limit."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from vpeft.errors import UserError, missing_package
from vpeft.files import alone

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
#: An empty database takes some pages; less would hold nothing.
LEAST = 10**6
#: Threads and processes that may read at once.
_READERS = 1024
_DATA, _LOCK = "data.mdb", "lock.mdb"


def byte_count(limit: int | str) -> int:
    """``"20GB"``, ``"500 MB"`` or a number, in bytes.

    Raises:
        UserError: It is none of these, or less than a store takes.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", str(limit).strip(), re.IGNORECASE)
    unit = found[2].upper() if found else ""
    size = int(float(found[1]) * _UNITS[unit if unit in _UNITS else f"{unit}B"]) if found and unit != "B" else 0
    if size < LEAST:
        raise UserError(
            f"limit={limit!r} of a store: give bytes or a size such as '20GB', of {LEAST:,} bytes at least."
        )
    return size


class Store:
    """Records in a folder. LMDB keeps them: a record is whole or not there, whenever a process is killed.

    The folder must lie on a disk of this machine: LMDB's locks are not seen by others. A damaged store (a machine that
    lost power, a file that was cut) is deleted and begun anew, which is said.

    Args:
        folder: Where; made if it is not there.
        limit: Bytes that it may take on disk, as of :func:`byte_count`. What is there already counts.
        look: Go through the keys to see whether the store is sound; data workers leave it out.

    Raises:
        UserError: The folder cannot be made or written to, or LMDB is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int | str, look: bool = True) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise UserError(f"a store of records: {missing_package(error) or error} (pip install lmdb)") from error
        self.limit, self.full, self.folder = byte_count(limit), False, Path(folder)
        self._error = lmdb.Error
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with alone(self.folder):
                self._base = self._opened(lmdb, look)
        except (lmdb.Error, OSError) as error:
            raise UserError(
                f"store {folder} cannot be opened ({error}): give a folder that can be written to, on a disk of this "
                "machine."
            ) from error

    def _opened(self, lmdb: Any, look: bool) -> Any:
        # Losing the last records in a crash of the machine costs no more than their making.
        settings = {"sync": False, "meminit": False, "max_readers": _READERS}
        is_ours = (self.folder / _LOCK).is_file()  # and no other program's file of the same name
        try:
            base = lmdb.open(str(self.folder), map_size=self.limit, **settings)
            base.reader_check()  # of processes that were killed
            reason = _damage(base, self.folder, look)
        except (lmdb.InvalidError, lmdb.VersionMismatchError) as error:
            if not is_ours:
                raise
            base, reason = None, str(error)
        if reason is None:
            return base
        if base is not None:
            base.close()
        print_log(f"store {self.folder} is damaged ({reason}): it is made anew.", "current", level=30)
        _delete_files(self.folder)
        return lmdb.open(str(self.folder), map_size=self.limit, **settings)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of the keys, None where there is none."""
        with self.reading(keys) as found:
            return [None if record is None else bytes(record) for record in found]

    @contextlib.contextmanager
    def reading(self, keys: Sequence[bytes]) -> Iterator[list[memoryview | None]]:
        """Within the context, the records of the keys where they lie, without a copy; None where there is none that
        can be read.
        """
        try:
            reading = self._base.begin(buffers=True)
            found = [reading.get(key) for key in keys]
        except self._error:  # damage, or more readers than there is room for
            yield [None] * len(keys)
            return
        with reading:
            yield found

    def put(self, records: Mapping[bytes, bytes]) -> bool:
        """Keep records, all of them or none where the limit or the disk has no room; whether they are kept."""
        if self.full:
            return False
        try:
            with self._base.begin(write=True) as writing:
                for key, record in records.items():
                    writing.put(key, record)
        except self._error:  # MapFullError, or the system's: no space left on the device
            self.full = True
        return not self.full

    def keys(self, most: int) -> list[bytes]:
        """The first keys, so many at most."""
        with self._base.begin() as reading:
            return [bytes(key) for key in itertools.islice(reading.cursor().iternext(values=False), most)]

    @property
    def used(self) -> int:
        """Bytes on disk."""
        return (self._base.info()["last_pgno"] + 1) * self._base.stat()["psize"]

    def __len__(self) -> int:
        return self._base.stat()["entries"]

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()


def has_room(folder: str | os.PathLike[str], limit: int | str) -> bool:
    """Whether the disk of a folder has twice the room that a store may take, with what the store has taken already."""
    place = Path(folder).absolute()
    taken = sum(file.stat().st_blocks * 512 for name in (_DATA, _LOCK) if (file := place / name).is_file())
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free + taken >= 2 * byte_count(limit)


def delete_store(folder: str | os.PathLike[str]) -> None:
    """Delete a store's files, and the folder where nothing else is in it."""
    _delete_files(Path(folder))
    with contextlib.suppress(OSError):
        Path(folder).rmdir()


def _delete_files(folder: Path) -> None:
    for name in (_DATA, _LOCK):
        (folder / name).unlink(missing_ok=True)


def _damage(base: Any, folder: Path, look: bool) -> str | None:
    """What is wrong with a store, None where nothing is found."""
    needed = (base.info()["last_pgno"] + 1) * base.stat()["psize"]
    if needed > (folder / _DATA).stat().st_size:  # reading behind its end would end the process
        return "its file was cut"
    if look:
        try:
            with base.begin() as reading:
                for _ in reading.cursor().iternext(values=False):
                    pass
        except Exception as error:  # of LMDB, which has one for each kind of damage
            return str(error)
    return None
