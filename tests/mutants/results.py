"""What became of the mutants: a row for each run of one, and the page made of them."""

from __future__ import annotations

import csv
import subprocess
import threading
from collections import Counter
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

from mutants.table import ROOT, Mutant, mutants

RESULTS = Path(__file__).parent / "results.csv"
PAGE = ROOT / "docs/develop/mutants.md"
DIED, SURVIVED, ERROR = "died", "survived", "error"
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Row:
    """How one mutant ended: at which commit (``+`` behind it where files were changed), and by which test."""

    name: str
    date: str
    commit: str
    outcome: str
    killed_by: str
    seconds: str


def commit() -> str:
    """The checkout's commit, a ``+`` behind it where files of the package or its tests are changed."""
    git = ("git", "-C", str(ROOT))
    head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
    ours = ("vpeft", "tests", ":!tests/mutants/results.csv")
    status = subprocess.run([*git, "status", "--porcelain", "--", *ours], capture_output=True, text=True, check=True)
    return head.stdout.strip() + "+" * bool(status.stdout.strip())


def row(mutant: Mutant, at: str, outcome: str, killed_by: str, seconds: float) -> Row:
    """A row of now."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return Row(mutant.name, now, at, outcome, killed_by, f"{seconds:.0f}")


def append(new: Row, file: Path = RESULTS) -> None:
    """Put a row behind the others."""
    with _LOCK:
        fresh = not file.exists()
        with file.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            if fresh:
                writer.writerow([f.name for f in fields(Row)])
            writer.writerow(astuple(new))


def latest(file: Path = RESULTS) -> dict[str, Row]:
    """The last row of each mutant."""
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        return {found["name"]: Row(**found) for found in csv.DictReader(stream)}


HEAD = """# Mutants: faults that the tests must find

A test that cannot fail proves nothing. `tests/mutants/areas/` holds {count} small faults of the usual kinds, a dropped
scale, swapped rows, a split that is the wrong one, each as a text of one file of the package and what takes its place.
A command puts one at a time into a copy of the checkout and runs the tests that concern it:

<!-- not run: takes hours -->

```bash
python tests/mutants/run.py                        # all that have not been run
python tests/mutants/run.py --only weights core    # some areas
python tests/mutants/run.py --name lora-no-scale   # one mutant, again
python tests/mutants/run.py --sample 10            # ten, drawn with --seed
python tests/mutants/run.py --page                 # this page alone, anew
```

It runs the same tests without the fault first: where they fail there too, the mutant is an *error* and no kill. A
mutant *died* where a test fails, or where the tests take four times as long as without it (at least two minutes); it
*survived* where all pass. Each run is a row of `tests/mutants/results.csv`, so that a run that was broken off goes on;
`--again` runs mutants anew. A `+` behind a commit says that files were changed then. The tests of every change see that
all mutants still fit the code; ten of them run with `--slow`.

A new mutant is an entry in one of the files of `areas/`. A survivor gets a test, or a `reason` there.
"""


def page() -> str:
    """The page of all mutants."""
    rows, every = latest(), mutants()
    ends = Counter((m.area, rows[m.name].outcome if m.name in rows else "not run") for m in every)
    columns = (DIED, SURVIVED, ERROR, "not run")
    areas = sorted({m.area for m in every})
    lines = [HEAD.format(count=len(every)), "## By area", "", "| area | mutants | died | survived | error | not run |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for area in areas:
        counts = [ends[area, column] for column in columns]
        lines.append(f"| {area} | {sum(counts)} | {' | '.join(map(str, counts))} |")
    totals = [sum(ends[area, column] for area in areas) for column in columns]
    lines += [f"| **all** | {len(every)} | {' | '.join(map(str, totals))} |", "", "## Survivors", ""]
    alive = [m for m in every if m.name in rows and rows[m.name].outcome == SURVIVED]
    lines += [f"- `{m.name}` ({m.file}): {m.fault}. {m.reason or 'No test finds it yet.'}" for m in alive]
    lines += [] if alive else ["None of those that were run."]
    lines += ["", "## All", "", "| mutant | fault | ended | by | at |", "|---|---|---|---|---|"]
    for m in every:
        end = rows.get(m.name)
        by = f"`{end.killed_by.removeprefix('tests/')}`" if end and end.killed_by else ""
        cells = (end.outcome, by, end.commit) if end else ("not run", "", "")
        lines.append(f"| `{m.name}` | {m.fault} | {' | '.join(cells)} |".replace("  ", " "))
    return "\n".join(lines) + "\n"


def write_page() -> None:
    """The page into docs/."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
