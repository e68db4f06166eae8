"""What stands in a run's folder, by name, and who may write there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mmengine.logging import print_log

from vpeft.errors import UserError

#: What was learned, at the end of the training.
ADAPTER = "adapter.safetensors"
#: What was learned, at the moment that ``CheckpointHook`` with ``save_best`` chose.
BEST_ADAPTER = "adapter_best.safetensors"
#: What the last test has shown.
RESULT = "result.json"
#: Class scores of the test images.
LOGITS = "logits.safetensors"
#: Who set which key of the config.
ORIGIN = "config_origin.json"
#: Held by the process that trains there.
LOCK = ".lock"
#: mmengine's note of the last checkpoint, with a path that is that of the time of writing.
LAST = "last_checkpoint"
#: Folders of earlier runs that were set aside.
EARLIER = "earlier_{}"
_STEP = re.compile(r"(?:epoch|iter)_(\d+)\.pth")
#: Of a run, besides its config and mmengine's folders of logs, which have names of their own.
_OF_A_RUN = (ADAPTER, "adapter_best*.safetensors", "epoch_*.pth", "iter_*.pth", "best_*.pth", LAST, RESULT, LOGITS)
_held: set[Path] = set()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run that stand in its own folder, the last one first.

    The first is the one that mmengine has noted as the last, where it is here: the folder may have been moved or copied
    since, and may hold checkpoints of a longer run that was there before.
    """
    steps = {path: int(m[1]) for path in folder.glob("*.pth") if (m := _STEP.fullmatch(path.name))}
    found = sorted(steps, key=steps.get, reverse=True)
    note = folder / LAST
    with contextlib.suppress(OSError, ValueError):
        noted = folder / Path(note.read_text().strip()).name
        if noted.suffix == ".pth" and noted.is_file():
            return [noted, *(one for one in found if steps[one] < steps.get(noted, -1) or noted not in steps)]
    return found


@contextmanager
def hold(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a run's folder, so that no second process trains there; it is free again as soon as the holder is dead.

    Where files cannot be locked (some network file systems, read-only ones) this is said, and the run goes on.

    Args:
        folder: The folder, made where there is none.
        wait: Wait until it is free.

    Raises:
        UserError: Another process holds it.
    """
    path = folder.resolve() / LOCK
    if path in _held:  # locks are a process's: it would lose the lock in closing the file once more
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error}): give another --work-dir.") from error
    with file:
        _lock(file, folder, wait)
        _held.add(path)
        try:
            yield
        finally:
            _held.discard(path)


def _lock(file: TextIO, folder: Path, wait: bool) -> None:
    try:
        # Not flock: workers that are forked would inherit it, and keep it after the death of their parent.
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        holder = file.read(200).strip() or "unknown"
        raise UserError(
            f"{folder} is in use: another run trains there (machine and process: {holder}). Wait for its end, or give "
            "another --work-dir."
        ) from error
    except OSError as error:
        said = f"{folder} cannot be locked ({error}): take care that one run alone trains there."
        print_log(said, "current", level=30)
        return
    file.truncate(0)
    file.write(f"{platform.node()} {os.getpid()}\n")
    file.flush()


def set_aside(folder: Path) -> Path | None:
    """Move what an earlier run has left in a folder into one of its own inside, so that two runs are never mixed.

    Returns:
        The folder of the earlier run, None where there was none.
    """
    if not ((folder / ADAPTER).is_file() or checkpoints(folder)):
        return None
    aside = folder / EARLIER.format(next(n for n in range(1, 100_000) if not (folder / EARLIER.format(n)).exists()))
    config = (read_origin(folder) or {}).get("config")
    try:
        aside.mkdir()
        for name in (*_OF_A_RUN, *([config] if config else []), ORIGIN):
            for file in folder.glob(name):
                os.replace(file, aside / file.name)
    except OSError as error:
        raise UserError(
            f"{folder} holds an earlier run that cannot be set aside ({error}): give another --work-dir."
        ) from error
    return aside


def read_origin(folder: Path) -> dict[str, Any] | None:
    """The record of a run's config (:mod:`vpeft.apis.config.origin`), None where there is none.

    Raises:
        UserError: It is broken.
    """
    file = folder / ORIGIN
    if not file.is_file():
        return None
    try:
        stored = json.loads(file.read_text())
        if not isinstance(stored, dict) or not isinstance(stored["steps"], list):
            raise TypeError("it has no steps")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no record of a config ({error}): delete it.") from error
    return stored


def clear_remains(folder: Path) -> None:
    """Delete what killed processes have left of half-written files; the folder must be held."""
    for file in folder.glob(".*.tmp"):
        number = file.name.removesuffix(".tmp").rpartition(".")[2]
        if number.isdigit() and not _alive(int(number)):
            with contextlib.suppress(OSError):
                file.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
