"""Files: written so that a kill or a full disk never leaves half of one behind, and read so that a bad one is named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpeft.errors import UserError, missing_package

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from mmengine import Config

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
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} could not be written ({reason}); an older file of that name is untouched.") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(
                OSError, ValueError
            ):  # a read-only or broken disk: the first error is the one to tell
                temporary.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def alone(folder: str | os.PathLike[str]) -> Iterator[None]:
    """One process at a time is in here for a folder, so that none undoes what another has just done there; where the
    file system has no locks, none waits.
    """
    place = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError, ImportError):  # file systems without locks, systems without flock
            import fcntl

            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically.

    Raises:
        UserError: The file cannot be written, or the value holds NaN or infinity, which JSON has not.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise UserError(f"{path} is not written: it would be no JSON ({error}).") from error
    write_atomically(path, (text + "\n").encode())


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


def unreadable(path: str | os.PathLike[str]) -> str | None:
    """Why there is no whole file to read at ``path``, in a few words such as ``is a folder``; None where there is one.

    A pipe or a device is no file either: reading one may never end.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:  # a name that is too long, holds a NUL, lies in a folder that is closed
        return f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(found.st_mode):
        return "is a folder"
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    if not os.access(path, os.R_OK):
        return "cannot be opened (Permission denied)"
    return None if found.st_size else "is empty"


def need_file(path: str | os.PathLike[str], what: str, missing: str = "give another path") -> None:
    """Refuse a path at which no whole file can be read.

    Args:
        path: The path.
        what: What it is of, for messages: ``image``, ``list of images``.
        missing: What to do where there is nothing.

    Raises:
        UserError: It is missing, empty, a folder, a pipe, closed to this user, or no possible name.
    """
    if reason := unreadable(path):
        hint = missing if reason == "does not exist" else "copy or unpack it again"
        raise UserError(f"{what} {path} {reason}: {hint}.")


def read_text(path: str | os.PathLike[str], what: str, missing: str = "give another path") -> str:
    """The text of a file in UTF-8, with or without a mark of byte order.

    Args:
        path: The file.
        what: What it is, for messages: ``list``, ``plan``.
        missing: What to do where it does not exist.

    Raises:
        UserError: There is no such file, or it is no such text; the message names the file and the line.
    """
    need_file(path, what, missing)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read ({error.strerror or error}).") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{what} {path}:{line}: byte {data[error.start]:#04x} is not UTF-8: save the file as UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{what} {path}:{line}: it holds a NUL byte: it is no text, or it is damaged.")
    return text


def read_json(
    path: str | os.PathLike[str], what: str, missing: str = "give another path", broken: str = "unpack it again"
) -> Any:
    """The value of a JSON file in UTF-8.

    Args:
        path: The file.
        what: What it is, for messages.
        missing: What to do where it does not exist.
        broken: What to do where it is broken.

    Raises:
        UserError: There is no such file, it is truncated or no JSON, or it states a key twice.
    """
    text = read_text(path, what, missing)
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is truncated or no JSON ({error}): {broken}.") from error


def read_config(path: str | os.PathLike[str], what: str = "config", imports: bool = True) -> Config:
    """A config of mmengine, as Python, JSON or YAML.

    Args:
        path: The file.
        what: What it is, for messages.
        imports: Import its ``custom_imports`` too, as mmengine does.

    Raises:
        UserError: The file or one of its bases is missing, no text in UTF-8, or raises; the message says where.
    """
    from mmengine import Config

    read_text(path, what)
    try:
        return Config.fromfile(str(path), import_custom_modules=imports)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{what} {path} cannot be read: {missing_package(error) or error}") from error
    except Exception as error:  # a config is code: it raises whatever its author's mistake does
        if "temporary" in str(error.__context__):  # mmengine copies configs, and stumbles where it cannot
            raise UserError(
                f"{what} {path} cannot be read: there is no folder for temporary files: set TMPDIR to one that can be "
                "written."
            ) from error
        file, place = _raised_in(error, str(path))
        if isinstance(error, UnicodeDecodeError):
            read_text(file, f"{what} {path}: its base")
        said = " ".join(str(error).split())
        raise UserError(f"{what} {path} cannot be read: {type(error).__name__}: {said} ({place})") from error


def import_named(cfg: Config, what: str) -> None:
    """Import a config's ``custom_imports``, where it was read without.

    Args:
        cfg: The config.
        what: What it is, with its file, for messages.

    Raises:
        UserError: One of them, or a package that it needs, is not there.
    """
    from mmengine.utils import import_modules_from_strings

    try:
        import_modules_from_strings(**(cfg.get("custom_imports") or {"imports": []}))
    except ImportError as error:
        raise UserError(f"{what} cannot be read: {missing_package(error) or error}") from error


def _raised_in(error: Exception, path: str) -> tuple[str, str]:
    """The config, or base of it, that was read when an error was raised, and the line of it where that is known."""
    file = path
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_file2dict":  # mmengine's, once for every base inside another
            file = str(frame.f_locals.get("filename", file))
        if frame.f_code.co_name == "<module>":
            return file, f"{frame.f_code.co_filename}, line {line}"
    return file, file


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once each: of two values the last would be taken without a word."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def schema_fault(data: Any, schema: Mapping[str, Any]) -> ValidationError | None:
    """What is most telling among the places where ``data`` does not follow a JSON schema; None where it does."""
    from jsonschema import Draft202012Validator  # as long to import as all of ours, for files alone
    from jsonschema.exceptions import best_match

    return best_match(Draft202012Validator(schema).iter_errors(data))
