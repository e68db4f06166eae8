"""Broken and hostile files for every reader, counted by what became of them.

``python tests/robustness/campaign.py --seed 0 --files 1000`` prints a table and ends with status 1 where anything was
silently wrong, ended in a traceback, hung, took the process along or ran code.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from support.evil import evil_files

import vpeft  # noqa: F401  (before any package that it mends)
from robustness.compare import digest, seeded
from robustness.files import READERS, Changed, good_files
from robustness.mutate import MUTATORS, PLACES, STRUCTURE
from vpeft.errors import UserError

ROOT = Path(__file__).parents[2]
#: What may become of a file. ``other`` is another valid file: in a format without a checksum nothing tells.
ABSENT = "nothing there"
REFUSED, EQUAL, OTHER = "refused", "equal", "other content"
WRONG, RAW, UNCLEAR, HANG, CRASH, CODE = "silently wrong", "traceback", "unclear", "hang", "crash", "code run"
GOOD, BAD = (REFUSED, EQUAL, OTHER), (CODE, WRONG, RAW, UNCLEAR, HANG, CRASH)
#: Seconds that a reader may take, and bytes that it may ask for beyond what it has at the start.
SECONDS, BYTES = 60.0, 3 * 2**30
#: What reading a file never does, by the names of Python's audit events.
#: A run asks these programs what it runs on.
ASKED = ("git rev-parse", "git --no-optional-locks", "gcc --version", "nvcc")
EVENTS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "urllib.Request", "pty.spawn")


@dataclass(frozen=True)
class Case:
    """One broken file."""

    reader: str
    kind: str  # bytes, place, evil
    name: str
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    case: Case
    outcome: str
    words: str = ""


def cases(seed: int, files: int, names: Sequence[str] | None = None) -> list[Case]:
    """So many files, over all readers, by their shares; every place and hostile pickle comes once."""
    readers = [READERS[name] for name in names or READERS]
    fixed, free = [], []
    for one in readers:
        fixed += [Case(one.name, "place", place, 0) for place in PLACES]
        if one.runs_code:
            fixed += [Case(one.name, "evil", name, 0) for name in sorted(_evil_names())]
    total = sum(one.share for one in readers)
    for one in readers:
        rng = seeded(seed, one.name)
        kinds = [m for key in one.formats for m in MUTATORS[key]]
        own: list[Any] = []
        for number in range(max(1, round(files * one.share / total))):
            if not own:
                own = rng.sample(kinds, len(kinds))
            mutator = own.pop()
            while mutator.once and number >= len(kinds) and own:
                mutator = own.pop()
            free.append(Case(one.name, "bytes", mutator.name, number))
    if len(fixed) > files // 2:
        fixed = seeded(seed, "fixed").sample(fixed, files // 2)
    # In the order of the readers, so that a worker meets few of them.
    places = {one.name: i for i, one in enumerate(readers)}
    free = seeded(seed, "free").sample(free, min(len(free), files - len(fixed)))
    return sorted(fixed + free, key=lambda case: (places[case.reader], case.kind, case.seed, case.name))


def _evil_names() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return list(evil_files(Path(folder) / "canary", Path(folder)))


class Worker:
    """Reads cases in a process of its own; kept apart so that a hang or a crash costs one case."""

    def __init__(self, goods: dict[str, Path], seed: int, folder: Path) -> None:
        self.goods, self.seed, self.folder = goods, seed, folder
        self.canary = folder / "canary"
        self.expected: dict[str, str] = {}
        self.evil: dict[str, bytes] = {}
        self.happened: list[str] = []
        self.watching = False

    def serve(self, todo: Sequence[Case], pipe: Any) -> None:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        if not os.environ.get("CAMPAIGN_LOUD"):
            os.dup2(null, 1)
            os.dup2(null, 2)
        self.folder.mkdir(parents=True)
        tempfile.tempdir = None
        sys.addaudithook(self._audit)
        sys.setrecursionlimit(1000)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
        for case in todo:
            try:
                self.good(case.reader)
            except BaseException:
                pipe.send(("broken", f"{case.reader} refuses its own good file: {traceback.format_exc()}"))
                return
            pipe.send(("begun", case))
            try:
                done = self.outcome(case)
            except BaseException:
                pipe.send(("broken", f"{case} could not be made: {traceback.format_exc()}"))
                return
            pipe.send(("done", done))
        pipe.send(("end", None))

    def _audit(self, event: str, args: tuple) -> None:
        if self.watching and event in EVENTS:
            words = " ".join(map(str, args[1])) if len(args) > 1 and isinstance(args[1], list) else str(args[:1])
            if not any(known in words for known in ASKED):
                self.happened.append(f"{event} {words}"[:200])

    def good(self, reader: str) -> None:
        """Read the good file, once."""
        if reader not in self.expected:
            self.expected[reader] = digest(READERS[reader].read(self._copied(reader, self.goods[reader])))

    def outcome(self, case: Case) -> Outcome:
        """Break the file, read it, and say what became of it."""
        one, good = READERS[case.reader], self.goods[case.reader]
        path = self._copied(case.reader, good)
        harm = self._break(case, path, good.read_bytes())
        if harm is None:
            return Outcome(case, EQUAL, "does not apply")
        if path.is_file() and not path.is_symlink() and path.read_bytes() == good.read_bytes():
            return Outcome(case, EQUAL, "the same bytes")
        self.happened.clear()
        self.watching = True
        try:
            found = digest(one.read(path))
        except UserError as error:
            outcome, words = self._refusal(str(error), path)
        except Changed as error:
            outcome, words = WRONG, str(error)
        except BaseException as error:
            text = "".join(traceback.format_exception_only(error)).strip()
            last = traceback.extract_tb(error.__traceback__)
            own = [f"{Path(f.filename).name}:{f.lineno}" for f in last if "/vpeft/" in f.filename][-2:]
            outcome, words = RAW, f"{text[:200]} at {' '.join(own)}"
        else:
            told = harm == STRUCTURE or harm in one.seals
            outcome = EQUAL if found == self.expected[case.reader] else WRONG if told else OTHER
            words = ""
        finally:
            self.watching = False
        if self.canary.exists() or self.happened:
            outcome, words = CODE, " ".join(self.happened) or "the canary was made"
            with contextlib.suppress(OSError):
                shutil.rmtree(self.canary) if self.canary.is_dir() else self.canary.unlink()
        return Outcome(case, outcome, words)

    def _copied(self, reader: str, good: Path) -> Path:
        """A copy of all that belongs to the good file, and the file's place in it."""
        root = next(parent for parent in good.parents if parent.name == self._folder(reader))
        case = self.folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(root, case)
        return case / good.relative_to(root)

    def _folder(self, reader: str) -> str:
        return f"{list(self.goods).index(reader):02d}"

    def _break(self, case: Case, path: Path, good: bytes) -> str | None:
        """Put the broken file in place; gives the harm, None where the mutation does not apply."""
        if case.kind == "place":
            path.unlink()
            PLACES[case.name](path)
            absent = READERS[case.reader].optional and not path.exists() and case.name != "a link to itself"
            return ABSENT if absent else STRUCTURE
        if case.kind == "evil":
            if not self.evil:
                scratch = self.folder / "evil"
                scratch.mkdir()
                self.evil = evil_files(self.canary, scratch)
            path.write_bytes(self.evil[case.name])
            return STRUCTURE
        mutators = [m for key in READERS[case.reader].formats for m in MUTATORS[key]]
        mutator = next(m for m in mutators if m.name == case.name)
        data = mutator.apply(good, seeded(self.seed, case.reader, case.name, case.seed))
        if data is None:
            return None
        path.write_bytes(data.replace(b"@CANARY@", str(self.canary).encode()))
        return mutator.harm

    @staticmethod
    def _refusal(text: str, path: Path) -> tuple[str, str]:
        """A refusal is one line that names the file, or another of its folder."""
        if "\n" in text.strip() or len(text) > 3000:
            return UNCLEAR, f"not one line: {text[:200]!r}"
        if path.name not in text and "/case/" not in text:
            return UNCLEAR, f"does not name the file: {text[:200]}"
        return REFUSED, text[:200]


def run(
    todo: Sequence[Case], seed: int, folder: Path, workers: int = 2, seconds: float = SECONDS, verbose: bool = False
) -> list[Outcome]:
    """Read every case in forked workers with a limit of time and memory each."""
    goods = good_files(folder / "good", list(dict.fromkeys(case.reader for case in todo)))
    context = multiprocessing.get_context("fork")
    # Readers that take long are spread over the workers.
    queues = [list(todo[i::workers]) for i in range(workers)]
    found: list[Outcome] = []
    running: dict[Any, dict[str, Any]] = {}

    def start(number: int) -> None:
        if not queues[number]:
            return
        mine, theirs = context.Pipe(duplex=False)
        worker = Worker(goods, seed, folder / f"worker{time.monotonic_ns()}")
        process = context.Process(target=worker.serve, args=(queues[number], theirs), daemon=True)
        process.start()
        theirs.close()
        running[mine] = {"process": process, "number": number, "since": time.monotonic(), "case": None, "at": worker}

    def end(pipe: Any, outcome: str | None, words: str = "") -> None:
        state = running.pop(pipe)
        if state["process"].is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(state["process"].pid, signal.SIGKILL)
        state["process"].join()
        pipe.close()
        shutil.rmtree(state["at"].folder, ignore_errors=True)
        if outcome is not None and state["case"] is not None:
            found.append(Outcome(state["case"], outcome, words))
            if verbose:
                print(describe(found[-1]), flush=True)
            queues[state["number"]].pop(0)
        start(state["number"])

    for number in range(workers):
        start(number)
    while running:
        for pipe in wait(list(running), timeout=1.0):
            try:
                what, value = pipe.recv()
            except EOFError:
                end(pipe, CRASH, f"the process ended with {running[pipe]['process'].exitcode}")
                continue
            state = running[pipe]
            state["since"] = time.monotonic()
            if what == "broken":
                raise RuntimeError(value)
            if what == "begun":
                state["case"] = value
            elif what == "done":
                found.append(value)
                queues[state["number"]].pop(0)
                state["case"] = None
                if verbose and value.outcome in BAD:
                    print(describe(value), flush=True)
            else:
                end(pipe, None)
        for pipe in [p for p, state in running.items() if time.monotonic() - state["since"] > seconds]:
            end(pipe, HANG, f"longer than {seconds:.0f} s")
    return found


def describe(one: Outcome) -> str:
    """A line on one file."""
    case = one.case
    return f"{one.outcome}: {case.reader}: {case.name} ({case.kind} {case.seed}): {one.words}"


def table(found: Sequence[Outcome]) -> str:
    """Counts by reader, as Markdown."""
    shown = [*GOOD, *BAD]
    lines = ["| reader | files | " + " | ".join(shown) + " |", "| --- |" + " ---: |" * (len(shown) + 1)]
    for name in dict.fromkeys(one.case.reader for one in found):
        own = Counter(one.outcome for one in found if one.case.reader == name)
        lines.append(f"| {name} | {sum(own.values())} | " + " | ".join(str(own[kind]) for kind in shown) + " |")
    whole = Counter(one.outcome for one in found)
    lines.append(f"| all | {len(found)} | " + " | ".join(str(whole[kind]) for kind in shown) + " |")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, default=1000, help="how many (%(default)s)")
    parser.add_argument("--readers", nargs="+", help="only readers whose names hold one of these words")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--case", help="only mutations whose names hold this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(ROOT)
    names = [name for name in READERS if not args.readers or any(word in name for word in args.readers)]
    todo = [case for case in cases(args.seed, args.files, names) if not args.case or args.case in case.name]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = run(todo, args.seed, Path(folder), args.workers, verbose=True)
    print(table(sorted(found, key=lambda one: names.index(one.case.reader))))
    bad = Counter(one.outcome for one in found)
    print(
        f"{len(found)} files in {time.monotonic() - begin:.0f} s: " + ", ".join(f"{bad[kind]} {kind}" for kind in BAD)
    )
    return int(any(bad[kind] for kind in BAD))


if __name__ == "__main__":
    sys.exit(main())
