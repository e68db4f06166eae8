"""Fix the learning rate and size of every method by the trials of a search.

``vpeft benchmark configs/plans/rates.yaml``, then ``vpeft rates work_dirs/benchmark/rates --page docs/rates.md``

Trials go into ``rates.csv`` beside the configs, which take from there what was searched on all tasks. Says what lies at
an end of what was searched, of single searches (``vpeft tune``) in the folder too, and then ends with 1. Without a
folder it looks at what there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", help="folder of a plan with `search`, or of vpeft tune")
    parser.add_argument("--folder", default="mini", help="folder of configs (mini)")
    parser.add_argument("--page", type=Path, help="write the page there, such as docs/rates.md")
    args = parser.parse_args(argv)
    from vpeft.apis.rates.write import write_rates

    found = write_rates(args.results, args.folder, args.page)
    for s in found.settings:
        partial = f"  partial, without {', '.join(s.lacking)}" if s.lacking else ""
        size = f"  {s.size}" if s.size else ""
        mean = f"{100 * s.mean:.2f} % on {len(s.values)} tasks"
        say(f"{s.method} on {s.host}: rate {s.rate:g}{size}  {mean}, {s.trials} trials each{partial}")
    for path in found.written:
        say(path)
    for fault in found.faults:
        say(f"fault: {fault}", to_error=True)
    return int(bool(found.faults))
