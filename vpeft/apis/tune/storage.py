"""The SQLite file of a study, checked."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from vpeft.errors import UserError
from vpeft.files import unreadable


@contextmanager
def readable(file: Path, begun: bool = False) -> Iterator[None]:
    """Within the context a study's file is read and written.

    Args:
        file: The file.
        begun: Whether there has been one: then it must not be gone or empty, since all trials would be lost in silence.

    Raises:
        UserError: It is damaged, or cannot be read or written.
    """
    hint = "where it is damaged or lost, delete the folder, and the search begins anew"
    reason = unreadable(file)
    new = reason in ("does not exist", "is empty") and not begun
    if reason and (not new or (file.is_symlink() and not file.exists())):
        raise UserError(f"study {file} {reason}: {hint}.")
    try:
        if reason is None:
            with closing(sqlite3.connect(file)) as database:
                found = database.execute("PRAGMA integrity_check").fetchone()[0]
            if found != "ok":
                raise UserError(f"study {file} is damaged ({found.splitlines()[0]}): {hint}.")
        yield
    except (sqlite3.Error, SQLAlchemyError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"study {file} cannot be read or written ({said}): {hint}.") from error
