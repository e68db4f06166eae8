"""Writing files so that a kill or a full disk never leaves half of one behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vpeft.errors import UserError


def write_atomically(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write ``data`` beside ``path`` and move it into place; folders are made.

    Raises:
        UserError: It could not be written; an older file of that name is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error}); an older file of that name is untouched.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically.

    Raises:
        UserError: The file cannot be written.
    """
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())
