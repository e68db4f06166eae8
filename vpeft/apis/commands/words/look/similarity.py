"""Whether runs make the same mistakes, from their stored logits (docs/analysis.md)."""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders with stored logits (tools/test.py --dump-logits)")
    parser.add_argument("--k", type=int, default=100, help="most confident predictions that are compared (100)")
    parser.add_argument("--out", default="work_dirs/similarity", help="folder for numbers and pictures")
    args = parser.parse_args(argv)
    from vpeft.extension.agreement.report import agreement_summary, read_runs, write_report

    say(agreement_summary(write_report(read_runs(args.runs), args.out, args.k)))
    say(f"written to {args.out}")
