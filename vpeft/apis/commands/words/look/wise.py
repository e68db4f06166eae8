"""Accuracy between the frozen start and the tuned model, in distribution and shifted."""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say
from vpeft.extension.interpolation import ALPHAS


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of trained runs of one task")
    parser.add_argument("--shifts", nargs="*", help="shifted test sets, such as noise-3 mixed-5 (all that there are)")
    parser.add_argument("--alphas", nargs="+", type=float, default=list(ALPHAS), help="from 0 to 1 (0, 0.1 .. 1)")
    parser.add_argument("--head", help="interpolate the head too, from this run's, or `init`; else the tuned one stays")
    parser.add_argument("--out", default="work_dirs/wise", help="folder for wise.json and wise.png")
    args = parser.parse_args(argv)
    from vpeft.core.trained.run import open_runs
    from vpeft.extension.interpolation.curve import default_shifts, wise_curve, write_curves

    reports = []
    for run in open_runs(args.runs):
        say(run.label)
        shifts = default_shifts(run) if args.shifts is None else args.shifts
        reports.append(wise_curve(run, shifts, args.alphas, args.head, lambda line: say(f"  {line}")))
        for way, words in reports[-1]["how"].items():
            say(f"  {way}: {words}")
    write_curves(reports, args.out)
    say(f"written to {args.out}")
