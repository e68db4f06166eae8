"""A copy of the checkout in which one file at a time is changed, and tests run there."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mutants.table import ROOT, Mutant

#: Seconds that an unmutated run of tests may take, and the least that a mutant's may.
CONTROL, LEAST = 1800.0, 120.0
#: How many times as long as the unmutated run a mutant's may take.
TIMES = 4.0
#: What pytest ends with where no test was found, or it was called wrongly.
NOTHING_RUN = (4, 5)
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """How tests ended: ``passed``, ``failed`` or ``error``, what failed or went wrong, and the seconds taken."""

    end: str
    what: str
    seconds: float


class Tree:
    """What git knows of the checkout, copied; runs in it read and write nothing of the checkout or of the user.

    Args:
        folder: An empty folder, which it fills.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.controls = folder / "checkout", {}
        listed = ("git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in subprocess.run(listed, capture_output=True, check=True, text=True).stdout.split("\0"):
            if name and (ROOT / name).is_file():
                target = self.root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, target)
        home = folder / "home"
        home.mkdir()
        # Nothing that a fault computed may be found later by those without it: caches have a home of their own.
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "TMPDIR": str(home),
            "PYTEST_ADDOPTS": "",
        }

    def control(self, checks: Sequence[str]) -> Outcome:
        """The tests without a fault, once."""
        checks = tuple(checks)
        if checks not in self.controls:
            self.controls[checks] = self.tested(checks, CONTROL)
        return self.controls[checks]

    def mutated(self, mutant: Mutant) -> Outcome:
        """The tests of a mutant with its fault in the copy, which is whole again afterwards."""
        file = self.root / "vpeft" / mutant.file
        text = file.read_text(encoding="utf-8")
        limit = max(LEAST, TIMES * self.control(mutant.checks).seconds)
        try:
            self.write(file, mutant.applied(text))
            return self.tested(mutant.checks, limit)
        finally:
            self.write(file, text)

    @staticmethod
    def write(file: Path, text: str) -> None:
        """A file, and nothing left that was compiled of it."""
        file.write_text(text, encoding="utf-8")
        Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)

    def tested(self, checks: Sequence[str], limit: float) -> Outcome:
        """How pytest ends within so many seconds."""
        command = [sys.executable, "-m", "pytest", *checks, "-x", "-q", "-p", "no:cacheprovider", "-rfE", "--tb=no"]
        start = time.monotonic()
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                return Outcome("failed", f"timeout of {limit:.0f} s", time.monotonic() - start)
            finally:  # with the processes that its tests have started, also where the command is interrupted
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        seconds = time.monotonic() - start
        if process.returncode == 0:
            return Outcome("passed", "", seconds)
        if process.returncode in NOTHING_RUN:
            return Outcome("error", "no test was run", seconds)
        found = FAILED.search(output)
        return Outcome("failed", found[1] if found else f"pytest ended with {process.returncode}", seconds)
