"""Write the file of a new method, and its test, to begin with (docs/adding_a_method.md)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("name", help="of the method, which its class has too, such as MyMethod")
    parser.add_argument("--out", default=".", help="folder for the two files")
    parser.add_argument("--category", default="adapter", help="of the survey's, as vpeft list methods shows them")
    args = parser.parse_args(argv)
    from vpeft.apis.testing.new_method import write_method

    method, test = write_method(args.name, args.out, args.category)
    say(f"{method}\n{test}\nGo through its contract: pytest {test}")
