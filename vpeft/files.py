"""Writing files so that a kill or a full disk never leaves half of one behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from vpeft.errors import UserError

#: Bytes that a file's name may have on the usual file systems, less what the temporary one has besides.
LONGEST = 255 - len(f"..{2**31}.tmp")
#: Seconds after which a temporary file is nobody's, whatever process has its number now.
STALE = 24 * 3600.0


def write_atomically(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write ``data`` beside ``path`` and move it into place; folders are made.

    What killed processes left behind of the same file goes.

    Raises:
        UserError: It could not be written; an older file of that name is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder, so no file can be written there: give another name.")
        temporary = path.with_name(f".{_stem(path)}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} could not be written ({error}); an older file of that name is untouched.") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(
                OSError, ValueError
            ):  # a read-only or broken disk: the first error is the one to tell
                temporary.unlink(missing_ok=True)
    return path


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically.

    Raises:
        UserError: The file cannot be written.
    """
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def _stem(path: Path) -> str:
    """The file's name as part of the temporary one's, where both fit."""
    name = os.fsencode(path.name)
    return path.name if len(name) <= LONGEST else hashlib.sha256(name).hexdigest()


def _clear(path: Path) -> None:
    """Delete temporary files of the same file whose process is dead, or that are older than a day."""
    before, after = f".{_stem(path)}.", ".tmp"
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            number = name[len(before) : -len(after)]
            if name.startswith(before) and name.endswith(after) and number.isdecimal():
                left = path.with_name(name)
                if not _runs(int(number)) or time.time() - left.stat().st_mtime > STALE:
                    left.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True
