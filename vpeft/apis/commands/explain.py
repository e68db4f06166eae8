"""Errors of Python, torch, mmengine and the machine in words: what was wrong, where, and what to do."""

from __future__ import annotations

import builtins
import contextlib
import errno
import importlib.util
import inspect
import os
import re
import traceback
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from vpeft.errors import EXTRAS, TRACEBACK, UserError, closest, missing_package

INPUT, OURS = 2, 1

#: Libraries that write files by themselves and raise errors of their own.
WRITERS = ("sqlite3", "sqlalchemy", "safetensors", "safetensors_rust", "optuna")

_FULL = "no space is left on the disk for {file}: free some, or write to another folder; an older file is untouched"
_MEMORY = "not enough memory ({said}): take a smaller batch or image, fewer workers, or a machine with more"
#: What an error number of the system means for the file.
SYSTEM = {
    errno.ENOENT: "{file} does not exist",
    errno.EISDIR: "{file} is a folder, and a file belongs there",
    errno.ENOTDIR: "{file}: a part of this path is a file, and a folder belongs there",
    errno.EEXIST: "{file} exists as a file, and a folder belongs there: give another name, or move it away",
    errno.EACCES: "{file} may not be read or written by this user: change its rights, or give another path",
    errno.EPERM: "{file} may not be changed by this user: change its rights, or give another path",
    errno.EROFS: "{file} lies on a read-only file system: give a folder that can be written",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENAMETOOLONG: "{file}: the name is too long for this file system",
    errno.ELOOP: "{file} is a link that leads to itself",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), or take fewer workers",
    errno.ENOMEM: _MEMORY,
    errno.EADDRINUSE: "the port of the process group is taken: set another one (MASTER_PORT, torchrun --master_port)",
}
#: Texts of torch and others that stand for an error of the machine.
TEXTS = (
    (r"No usable temporary directory", "there is no folder for temporary files: set TMPDIR to one that can be written"),
    (r"No space left on device|database or disk is full|PytorchStreamWriter failed writing|unexpected pos", _FULL),
    (r"Read-only file system|readonly database", SYSTEM[errno.EROFS]),
    (r"unable to open database file", SYSTEM[errno.EACCES]),
    (
        r"shared memory",
        "the shared memory of this machine is too small ({said}): enlarge /dev/shm, or set num_workers=0 in the "
        "loaders",
    ),
    (
        r"DataLoader worker .*(exited unexpectedly|killed by signal)",
        "a data worker was ended from outside, most often for want of memory: take fewer; num_workers=0 in the loaders "
        "shows an error of its own",
    ),
    (r"not enough memory|[Cc]an(no|')t allocate memory|out of memory|bad_alloc", _MEMORY),
    (r"EADDRINUSE|[Aa]ddress already in use", SYSTEM[errno.EADDRINUSE]),
)


def explain(error: BaseException) -> tuple[str, int]:
    """An error in words.

    Args:
        error: Any; one that a data worker or another process sent, with its traceback as text, is read from its last
            line.

    Returns:
        The words, and 2 where the input, its use or the machine is to blame, 1 where this package is.
    """
    sent = _sent(error)
    for reason in (_user, missing_package, _machine, _config):
        if (words := reason(sent)) is not None:
            return words, INPUT
    said = str(sent) or "no message"
    return (
        f"{type(sent).__name__}: {said} ({_place(error)}). This was not foreseen, so the fault is most likely ours: "
        f"--traceback (or {TRACEBACK}=1) shows where; please report it with that.",
        OURS,
    )


def _sent(error: BaseException) -> BaseException:
    """The error that another process raised: its text ends in ``<class>: <message>``."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if "Traceback (most recent call last)" not in text:
        return error
    last = text.strip().splitlines()[-1]
    name, _, message = last.partition(": ")
    kind = UserError if name.endswith("UserError") else getattr(builtins, name, None)
    number = re.fullmatch(r"\[Errno (\d+)\] ([^:]*)(?:: '(.*)')?", message)
    if number:
        return OSError(int(number[1]), *number.groups()[1:])
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return RuntimeError(last)
    return kind(message) if not issubclass(kind, UnicodeError) else ValueError(message)


def _user(error: BaseException) -> str | None:
    return str(error) if isinstance(error, UserError) else None


def _machine(error: BaseException) -> str | None:
    said = str(error).strip().partition("\n")[0]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, which may not be there
        return _MEMORY.format(said=said or "of this machine")
    if isinstance(error, RecursionError):
        return "something is nested too deep: a config, a file, or an option that holds itself"
    if isinstance(error, urllib.error.URLError):
        return f"a download failed ({error}): fetch the file by hand and give its path"
    file = getattr(error, "filename", None)
    file = "a file" if file is None else os.fsdecode(file) if isinstance(file, (str, bytes)) else f"file {file}"
    if isinstance(error, (OSError, RuntimeError)) or type(error).__module__.split(".")[0] in WRITERS:
        for pattern, words in TEXTS:
            if re.search(pattern, str(error)):
                return words.format(file=file if file != "a file" else "what is written", said=said[:200])
    if isinstance(error, UnicodeDecodeError):
        return f"a file that must be UTF-8 text is not ({error.reason} at byte {error.start}): save it as UTF-8"
    if isinstance(error, OSError):
        words = SYSTEM.get(error.errno)
        return f"{type(error).__name__}: {said}" if words is None else words.format(file=file, said=said)
    return None


def _config(error: BaseException) -> str | None:
    """What a config asks for and mmengine cannot build."""
    unknown = re.match(r"(\S+) is not in the (\w+)::([\w ]+) registry", str(error.args[0]) if error.args else "")
    if isinstance(error, KeyError) and unknown:
        return _unknown_type(*unknown.groups())
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if (built := next(_built(frames), None)) is None:
        return None
    if isinstance(error, TypeError) and (unexpected := re.search(r"unexpected keyword argument '(\w+)'", str(error))):
        name = unexpected[1]
        of = re.match(r"(\w+)\.__init__\(\)", str(error))  # of a class that the Runner calls itself
        built = frames[-1].f_globals.get(of[1], built) if of else built
        known = [p for p in _parameters(built) if p != "self"]
        close = closest(name, known)
        hint = f"did you mean {close!r}?" if close else f"it takes {', '.join(known)}."
        return f"config: {_called(built)} takes no {name!r}: {hint}"
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f"config: {_called(built)} cannot be built: {type(error).__name__}: {said} (--traceback shows where)"


def _unknown_type(name: str, scope: str, kind: str) -> str:
    """A type that is in no registry: the nearest that is, or the package that would bring it."""
    import mmengine.registry  # it has raised the error; a help does without it
    from mmengine.registry import DefaultScope, Registry

    wanted = {scope, DefaultScope.get_current_instance() and DefaultScope.get_current_instance().scope_name}
    missing = next((s for s in wanted if s in EXTRAS and importlib.util.find_spec(s) is None), None)
    if missing:
        return f"type={name!r} is of {missing}, which is not installed: pip install 'vpeft[{EXTRAS[missing]}]'"
    roots = [r for r in vars(mmengine.registry).values() if isinstance(r, Registry) and r.name == kind]
    for own in (root.children["vpeft"] for root in roots if "vpeft" in root.children):
        with contextlib.suppress(ImportError):  # of an extra: what is there can be named
            own.import_from_location()
    known = {n for root in roots for r in (root, *root.children.values()) for n in r.module_dict}
    close = closest(name.rpartition(".")[2], known)
    hint = f"did you mean {close!r}?" if close else "is its package named in custom_imports?"
    return f"config: type={name!r} is no {kind} of {scope}: {hint}"


def _built(frames: list[FrameType]) -> Iterator[object]:
    """What was being built from a config when an error came, the innermost first."""
    for frame in reversed(frames):
        module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if module == "mmengine.registry.build_functions" and (built := frame.f_locals.get("obj_cls")) is not None:
            yield built
        elif module == "mmengine.runner.runner" and function in ("__init__", "from_cfg"):
            yield "the Runner"
        elif module == "mmengine.runner.runner" and function.startswith("build_"):
            yield f"the {function.removeprefix('build_').replace('_', ' ')}"
        elif module.startswith("mmengine.config"):
            yield "it"


def _called(built: object) -> str:
    return built if isinstance(built, str) else getattr(built, "__name__", str(built))


def _parameters(built: object) -> list[str]:
    try:
        return list(inspect.signature(built).parameters)
    except (TypeError, ValueError):
        return []


def _place(error: BaseException) -> str:
    """File and line where an error was raised; the last of this package where there is one."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent != Path(__file__).parent]
    ours = [frame for frame in frames if f"{os.sep}vpeft{os.sep}" in frame.filename]
    if not frames:
        return "in another process"
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"
