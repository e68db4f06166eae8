"""Train the shipped adapters anew, on the embedded tasks (docs/zoo.md)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("names", nargs="*", help="of adapters, as vpeft list zoo shows them; all unless given")
    parser.add_argument("--out", default="work_dirs/zoo/adapters", help="folder for the adapter files and their index")
    parser.add_argument("--runs", default="work_dirs/zoo", help="folder of the runs; what is done there is taken")
    args = parser.parse_args(argv)
    from vpeft.apis.zoo.make import make_zoo

    for line in make_zoo(args.out, args.runs, args.names):
        say(line)
