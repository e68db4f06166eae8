"""What is kept between runs: records by key, memory-mapped, shared by processes, whole or not there, with a limit."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vpeft.errors import UserError, missing_package

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
#: An empty database takes some pages; less would hold nothing.
LEAST = 10**6


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

    Args:
        folder: Where; made if it is not there.
        limit: Bytes that it may take on disk, as of :func:`byte_count`. What is there already counts.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int | str) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise UserError(f"a store of records: {missing_package(error) or error} (pip install lmdb)") from error
        self.limit, self.full = byte_count(limit), False
        self._full = lmdb.MapFullError
        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            # Losing the last records in a crash of the machine costs no more than their making.
            self._base = lmdb.open(str(folder), map_size=self.limit, sync=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise UserError(f"store {folder}: {error}: remove the folder, it is made again.") from error

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of the keys, None where there is none."""
        with self._base.begin() as reading:
            return [reading.get(key) for key in keys]

    def put(self, records: Mapping[bytes, bytes]) -> bool:
        """Keep records, all of them or none where they do not fit any more; whether they are kept."""
        if self.full:
            return False
        try:
            with self._base.begin(write=True) as writing:
                for key, record in records.items():
                    writing.put(key, record)
        except self._full:
            self.full = True
        return not self.full

    def keys(self, most: int) -> list[bytes]:
        """The first keys, so many at most."""
        with self._base.begin() as reading:
            return [bytes(key) for key in itertools.islice(reading.cursor().iternext(values=False), most)]

    def __len__(self) -> int:
        return self._base.stat()["entries"]

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()
