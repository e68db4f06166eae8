"""What a method does inside its host: its updates, CKA with the frozen host, what it selected."""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of trained runs of one host and task")
    parser.add_argument("--samples", type=int, default=256, help="test samples that are looked at (256)")
    parser.add_argument("--out", default="work_dirs/inside", help="folder for numbers and pictures")
    args = parser.parse_args(argv)
    from vpeft.core.trained.run import open_runs
    from vpeft.extension.changes.report import write_inside

    for one in write_inside(open_runs(args.runs), args.out, args.samples):
        diagonal = [row[i] for i, row in enumerate(one["cka"])]
        say(one["run"])
        say(f"  CKA with the frozen host, block by block   {' '.join(f'{value:.2f}' for value in diagonal)}")
        for key, what in (("contributions", "largest contribution"), ("weights", "largest change of a weight")):
            if one[key]:
                top = max(one[key], key=lambda size: size["value"])
                say(f"  {what:<42} {top['value']:.3f} at {top['where']}, block {top['block']}")
        if one["selected"]:
            say(f"  selected                                   {sum(s['count'] for s in one['selected']):,} in all")
    say(f"written to {args.out}")
