"""Show the results of a benchmark.

What a cell is made of: ``--cell LoRA digits``. One small file of them all, which this word and ``leaderboard`` read as
they read a folder: ``--pack runs.jsonl.xz``. Parts that ran apart add up: ``results DIR old.jsonl.xz``.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say
from vpeft.apis.results.tables import SHAPES, cell_runs


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "results", nargs="+", help="folder that tools/benchmark.py wrote to, or packed results; several are one board"
    )
    parser.add_argument(
        "--as", dest="shape", choices=list(SHAPES), default="markdown", help="what is printed (markdown)"
    )
    parser.add_argument("--method", nargs="+", help="only these methods")
    parser.add_argument("--backbone", nargs="+", help="only these backbones")
    parser.add_argument("--task", nargs="+", help="only these tasks")
    parser.add_argument("--seed", nargs="+", help="only these seeds")
    parser.add_argument("--status", nargs="+", help="only these: ok, failed")
    parser.add_argument("--all", action="store_true", help="runs off the protocol too")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--cell", nargs=2, metavar=("METHOD", "TASK"), help="the runs that a cell is made of")
    instead.add_argument(
        "--compare", nargs=2, metavar=("METHOD", "METHOD"), help="the first against the second, paired"
    )
    instead.add_argument("--plots", metavar="FOLDER", help="draw Pareto fronts and accuracy over size there")
    instead.add_argument("--pack", metavar="FILE", help="write the runs into one file, NAME.jsonl.xz")
    args = parser.parse_args(argv)
    from vpeft.apis.results.parts import read_parts

    results = read_parts(args.results)
    for fault in results.broken:
        say(f"left out: {fault}", to_error=True)
    fields = {name: getattr(args, name) for name in ("method", "backbone", "task", "seed", "status")}
    results = results.filtered(**fields)
    if args.plots:
        from vpeft.apis.results.plots import draw_all

        for path in draw_all(results if args.all else results.honest(), args.plots):
            say(path)
    elif args.pack:
        from vpeft.apis.results.packed import write_packed

        say(write_packed(args.pack, {results.name_of(path): run for path, run in results.runs.items()}))
    elif args.cell:
        say(cell_runs(results, *args.cell))
    else:
        shape = SHAPES["compare"] if args.compare else SHAPES[args.shape]
        say(shape(results, args.all, *(args.compare or ())))
    return 0
