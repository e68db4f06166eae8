"""Write the leaderboard of a folder of results: a page, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say
from vpeft.apis.results.published.tables import table_files


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "results", help="folder that tools/benchmark.py wrote to, or packed results (vpeft results --pack)"
    )
    parser.add_argument("--out", help="folder that is written to (leaderboard/ in RESULTS, or beside the file)")
    known = ", ".join(table_files())
    parser.add_argument(
        "--against", nargs="*", metavar="TABLE", help=f"published tables to compare with: {known} (all)"
    )
    parser.add_argument("--method", nargs="+", help="only these methods")
    parser.add_argument("--backbone", nargs="+", help="only these backbones")
    parser.add_argument("--task", nargs="+", help="only these tasks")
    parser.add_argument("--all", action="store_true", help="runs off the protocol too, marked")
    parser.add_argument("--alone", action="store_true", help="no links to result files: for a page that goes without")
    parser.add_argument("--title", default="V-PEFT Bench leaderboard", help="heading")
    args = parser.parse_args(argv)
    from vpeft.apis.leaderboard.write import write_leaderboard
    from vpeft.apis.results.files import read_results

    results = read_results(args.results)
    for fault in results.broken:
        say(f"left out: {fault}", to_error=True)
    results = results.filtered(**{name: getattr(args, name) for name in ("method", "backbone", "task")})
    tell = say if args.against else None
    for path in write_leaderboard(results, args.out, args.against, args.all, args.title, args.alone, tell):
        say(path)
    return 0
