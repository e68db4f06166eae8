"""Which code has made a result."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from pathlib import Path

#: The package.
HERE = Path(__file__).parents[2]


def git_hash() -> str | None:
    """The commit of this project's checkout, with ``+`` where its files differ from it; None where there is none.

    A checkout of something else that the package happens to be installed in is not asked.
    """
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != HERE.parent.resolve() or not _git("ls-files", "vpeft/__init__.py"):
        return None
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", "vpeft", "configs", "tools")
    return None if not commit or changed is None else commit + "+" * bool(changed)


@cache
def code_hash() -> str:
    """Digest of the package's own Python files, by name: the same for the same code, installed or checked out."""
    digest = hashlib.sha256()
    for file in sorted(HERE.rglob("*.py")):
        digest.update(f"{file.relative_to(HERE).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _git(*words: str) -> str | None:
    # Without the lock that "status" takes to refresh the index: a run that is killed meanwhile would leave it behind.
    command = ["git", "--no-optional-locks", *words]
    try:
        out = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return out.stdout.strip()
