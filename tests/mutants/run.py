"""Apply mutants one at a time and run the tests that concern them: ``python tests/mutants/run.py --only methods``."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutants.results import DIED, ERROR, SURVIVED, Row, append, commit, latest, row, write_page
from mutants.table import Mutant, mutants
from mutants.tree import Tree


def tried(mutant: Mutant, tree: Tree, at: str) -> Row:
    """A mutant and the tests that concern it, in a tree."""
    control = tree.control(mutant.checks)
    if control.end != "passed":
        return row(mutant, at, ERROR, f"without the fault: {control.what}", control.seconds)
    outcome = tree.mutated(mutant)
    end = {"passed": SURVIVED, "failed": DIED, "error": ERROR}[outcome.end]
    return row(mutant, at, end, outcome.what, outcome.seconds)


def run(chosen: Sequence[Mutant], workers: int = 1, write: bool = True) -> list[Row]:
    """All of them, in order, by so many trees at once; mutants of the same tests stay together."""
    at, local, rows = commit(), threading.local(), []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(workers) as pool:

        def one(mutant: Mutant) -> None:
            if not hasattr(local, "tree"):
                local.tree = Tree(Path(tempfile.mkdtemp(dir=folder)))
            rows.append(tried(mutant, local.tree, at))
            print(f"{len(rows):4d}/{len(chosen)}  {rows[-1].outcome:9s}{mutant.name}  {rows[-1].killed_by}", flush=True)
            if write:
                append(rows[-1])

        list(pool.map(one, sorted(chosen, key=lambda m: m.checks)))
    return rows


def main(words: Sequence[str] | None = None) -> int:
    """The command; 1 where a mutant without a reason survived, or an error came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="AREA", help="mutants of these areas")
    parser.add_argument("--name", nargs="+", default=[], metavar="NAME", help="these mutants, run before or not")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of them, drawn")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--workers", type=int, default=1, help="trees at once")
    parser.add_argument("--again", action="store_true", help="those too that have a row")
    parser.add_argument("--list", action="store_true", help="name the mutants and run none")
    parser.add_argument("--page", action="store_true", help="write the page anew and run none")
    args = parser.parse_args(words)
    if args.page:
        write_page()
        return 0
    try:
        chosen = mutants(args.only, args.name)
    except ValueError as error:
        parser.error(str(error))
    if args.workers < 1 or (args.sample is not None and args.sample < 1):
        parser.error("--workers and --sample are 1 or more")
    if args.sample is not None:
        chosen = random.Random(args.seed).sample(chosen, min(args.sample, len(chosen)))
    done = {name for name, found in latest().items() if found.outcome != ERROR}
    if not args.again and not args.name:
        chosen = [m for m in chosen if m.name not in done]
    if args.list:
        print("\n".join(f"{m.area:12s}{m.name:40s}{m.fault}" for m in chosen))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # behind the present mutant, whose tests end too
    reasons = {m.name for m in chosen if m.reason}
    try:
        rows = run(chosen, args.workers)
    finally:
        write_page()
    bad = [r for r in rows if r.outcome == ERROR or (r.outcome == SURVIVED and r.name not in reasons)]
    print(f"{sum(r.outcome == DIED for r in rows)} of {len(rows)} died")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
