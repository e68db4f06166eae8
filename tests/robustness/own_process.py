"""A campaign in a process of its own: its forks copy what it has imported, not what a thousand tests left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOM = Path(__file__).parent


def in_own_process(script: str, *words: str, folder: Path) -> tuple[int, list[str]]:
    """Run a script of this room.

    Args:
        script: Its name.
        *words: Its command line.
        folder: For its files.

    Returns:
        Its exit status, and the lines that it printed.
    """
    done = subprocess.run(
        [sys.executable, str(ROOM / script), *words],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()
